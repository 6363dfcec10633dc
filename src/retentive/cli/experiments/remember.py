"""``retentive remember``: a memory around a pretrained model carries a word from segment to segment."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from retentive.cli.options.from_config import add_config, read_config
from retentive.experiments.remember.report import markdown
from retentive.experiments.remember.run import RememberConfig, run_remember


def add_options(parser: ArgumentParser, arguments: list[str]) -> None:
    """The model, then every other field of `RememberConfig`."""
    parser.add_argument("source", type=Path, help="folder of a model")
    add_config(parser, RememberConfig, leave_out=frozenset({"source"}))


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Train, ask, and print what was remembered."""
    config = read_config(parser, options, RememberConfig)
    made = run_remember(config)
    training, first, last = made.training, made.training.losses[0], made.training.losses[-1]
    print(
        f"{made.parameters:,} numbers learned in {training.steps} steps: {training.seconds:.0f} s on the clock, "
        f"{training.processor_seconds:.0f} s of processors; loss {first:.2f} to {last:.2f} nats"
    )
    print(f"\n{markdown(made.answers)}\n")
    print(f"written: {config.output / 'remember.md'}, remember.json and remember.png")
    print(f"model: {config.output / 'model'}")
