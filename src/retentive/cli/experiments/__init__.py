"""The commands that train models to show something, a file each; see `retentive.experiments`."""
