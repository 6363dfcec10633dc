"""A Transformer whose attention becomes retention, layer by layer, matched and then distilled."""
