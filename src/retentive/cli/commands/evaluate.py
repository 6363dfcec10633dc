"""``retentive evaluate``: a trained model in numbers."""

from jsonargparse import ArgumentParser, Namespace

from retentive.cli.options.from_config import add_config, read_config
from retentive.evaluation.harness import HarnessConfig, evaluate_tasks
from retentive.evaluation.model_evaluation import EvaluateConfig, evaluate

POSITIONAL = "checkpoint"


def add_options(parser: ArgumentParser, arguments: list[str]) -> None:
    """Every field of `EvaluateConfig`; with ``--harness TASKS``, of `HarnessConfig`."""
    wants_harness = any(argument.split("=")[0] == "--harness" for argument in arguments)
    parser.epilog = "retentive evaluate CHECKPOINT --harness TASKS runs tasks of lm-evaluation-harness instead."
    add_config(parser, HarnessConfig if wants_harness else EvaluateConfig)


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Measure and print a table."""
    if "harness" in options:
        report = evaluate_tasks(read_config(parser, options, HarnessConfig))
    else:
        report = evaluate(read_config(parser, options, EvaluateConfig))
    print("\n".join(report.lines()))
