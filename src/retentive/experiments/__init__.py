"""What trains models to show something: a demo, recall over a million bytes, whether neighbours help."""
