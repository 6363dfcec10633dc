"""The page: static files that fetch nothing from elsewhere."""
