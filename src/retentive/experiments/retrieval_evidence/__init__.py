"""Ways to use one datastore, side by side: in context, nearest tokens, RETROfit and RETRO."""
