"""``python -m references MODULE FILE``: write the cases of one reference, as tensors and plain values alone."""

import sys
from importlib import import_module

import torch

if __name__ == "__main__":
    torch.save(import_module(f"references.{sys.argv[1]}").cases(), sys.argv[2])
