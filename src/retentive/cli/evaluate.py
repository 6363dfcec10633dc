"""``retentive evaluate``: a trained model in numbers."""

from jsonargparse import ArgumentParser, Namespace

from retentive.cli.options import add_config, read_config
from retentive.evaluation.model_evaluation import EvaluateConfig, evaluate

POSITIONAL = "checkpoint"


def add_options(parser: ArgumentParser, arguments: list[str]) -> None:
    """Every field of `EvaluateConfig`."""
    add_config(parser, EvaluateConfig)


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Measure and print a table."""
    report = evaluate(read_config(parser, options, EvaluateConfig))
    print("\n".join(report.lines()))
