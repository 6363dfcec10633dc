"""``retentive recall``: does a memory hold a fact over a million bytes? Trained, asked and drawn here."""

from jsonargparse import ArgumentParser, Namespace

from retentive.cli.options.from_config import add_config, read_config
from retentive.experiments.recall.report import markdown
from retentive.experiments.recall.run import RecallConfig, run_recall


def add_options(parser: ArgumentParser, arguments: list[str]) -> None:
    """Every field of `RecallConfig`."""
    add_config(parser, RecallConfig)


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Run the experiment, print its table and where it is written."""
    config = read_config(parser, options, RecallConfig)
    results = run_recall(config)
    print(f"\n{markdown(results)}\n")
    print(f"written: {config.output / 'recall.md'}, {config.output / 'recall.json'}, {config.output / 'recall.png'}")
