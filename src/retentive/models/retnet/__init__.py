"""RetNet (arXiv:2307.08621): the decoder with retention."""
