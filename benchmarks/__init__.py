"""Side-by-side measurements. They write JSON and pictures, and nothing imports them."""
