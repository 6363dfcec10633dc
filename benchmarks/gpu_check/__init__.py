"""Ten minutes on a GPU: laws, precisions, compiled steps and speed, in one JSON with the card's name."""
