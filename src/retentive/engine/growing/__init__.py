"""Steps over memory that grows: caches, and positions computed ahead."""
