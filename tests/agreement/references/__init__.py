"""Small models of other packages; each module runs in the environment of its package, and imports nothing of ours."""
