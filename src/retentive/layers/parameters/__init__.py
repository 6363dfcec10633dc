"""How parameters are filled, and what follows from them and from configs."""
