"""Reports: measurements as charts, tables and passages, drawn as one page."""
