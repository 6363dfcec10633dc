"""How things are measured side by side: contestants in processes of their own, rounds, ratios, pictures."""
