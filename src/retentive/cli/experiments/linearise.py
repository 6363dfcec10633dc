"""``retentive linearise``: attention layers of a Transformer become retention."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from retentive.cli.options.from_config import add_config, read_config
from retentive.experiments.linearise.run import LineariseConfig, linearise


def add_options(parser: ArgumentParser, arguments: list[str]) -> None:
    """The two folders in their order, then every other field of `LineariseConfig`."""
    parser.add_argument("source", type=Path, help="folder of a Transformer")
    parser.add_argument("dest", type=Path, help="folder that is made")
    add_config(parser, LineariseConfig, leave_out=frozenset({"source", "dest"}))


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Match, distil, and print what was learned."""
    made = linearise(read_config(parser, options, LineariseConfig))
    for report in made.reports:
        print("\n".join(report.lines()))
    if made.model is not None:
        print(f"{len(made.retains)} layers retain: {', '.join(map(str, made.retains))}")
        print(f"next: retentive evaluate {made.model} --store ...")
