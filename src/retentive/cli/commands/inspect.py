"""``retentive inspect``: what a saved model is, and what it carries."""

from dataclasses import dataclass
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from retentive.checkpoints.manifest import read_manifest
from retentive.cli.options.from_config import add_config, read_config
from retentive.evaluation.inspection import inspect_model
from retentive.evaluation.report.files import write_report
from retentive.files.targets import check_folder_target

POSITIONAL = "checkpoint"


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Look into a trained model: parameters by part, what its state holds, and how long its heads remember.

    Args:
        checkpoint: Folder of a model, as "retentive train" writes it.
        output: Folder for the page with pictures; null writes "inspect" into the model's folder.
    """

    checkpoint: Path
    output: Path | None = None


def add_options(parser: ArgumentParser, arguments: list[str]) -> None:
    """Every field of `InspectConfig`."""
    add_config(parser, InspectConfig)


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Print the findings, and write them as a page with pictures."""
    config = read_config(parser, options, InspectConfig)
    read_manifest(config.checkpoint)  # a folder that is not there is no place for the page
    folder = config.checkpoint / "inspect" if config.output is None else config.output
    check_folder_target("output", folder)
    inspection = inspect_model(config.checkpoint)
    page = write_report(inspection.report(), folder)
    print("\n".join([*inspection.lines(), "", f"  {page}  the same with pictures"]))
