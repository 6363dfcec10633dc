"""``python -m references.retro_dataset FOLDER FILE``: what retro_pytorch's dataset reads of the files in a folder."""

import json
import sys
from pathlib import Path

import torch
from retro_pytorch import RETRODataset


def main(folder: str, file: str) -> None:
    """Write all sequences with what was retrieved for them."""
    arguments = json.loads((Path(folder) / "arguments.json").read_text())
    data = RETRODataset(**arguments)
    torch.save([data[number] for number in range(len(data))], file)


if __name__ == "__main__":
    main(*sys.argv[1:])
