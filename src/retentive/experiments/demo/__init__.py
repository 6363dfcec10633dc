"""The main job on real text, with a report."""
