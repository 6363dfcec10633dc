"""``retentive quantise``: a copy of a model whose weights are whole numbers of 8 or 4 bits."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from retentive.checkpoints.quantised_copy import quantised_copy
from retentive.checkpoints.tensor_file import listed
from retentive.cli.options.from_config import read_config
from retentive.layers.quantised import QuantisationConfig


@dataclass(frozen=True, kw_only=True)
class QuantiseConfig:
    """Round a model's weights to 8 or 4 bits.

    Args:
        source: Folder of a model.
        dest: Folder that is made.
        bits: Of a weight.
        group_size: For 4 bits: inputs that share a scale.
    """

    source: Path
    dest: Path
    bits: Literal[8, 4] = 8
    group_size: int = 32


def add_options(parser: ArgumentParser, arguments: list[str]) -> None:
    """The two folders in their order, and how weights are rounded."""
    parser.add_argument("source", type=Path, help="folder of a model")
    parser.add_argument("dest", type=Path, help="folder that is made")
    parser.add_argument("--bits", type=int, default=8, help="8, with a scale a row, or 4, with one a group")
    parser.add_argument("--group_size", type=int, default=32, help="for 4 bits: inputs that share a scale")


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Round, save, and print what became of the size."""
    config = read_config(parser, options, QuantiseConfig)
    rounding = QuantisationConfig(bits=config.bits, group_size=config.group_size)
    made = quantised_copy(config.source, config.dest, rounding)
    sizes = f"{made.bytes_after / 1e6:,.1f} MB, {made.bytes_before / 1e6:,.1f} MB before"
    print(f"weights of {config.bits} bits are in {config.dest}: {sizes}")
    if made.wide:
        print(f"8 bits where 4 do not fit the shape: {listed(made.wide)}")
    print(f"try: retentive evaluate {config.dest}, to see what it costs")
