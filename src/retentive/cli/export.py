"""``retentive export``: a model's step compiled ahead of time."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from retentive.checkpoints import load_model
from retentive.checkpoints.devices import chosen_device
from retentive.cli.options.from_config import read_config
from retentive.engine.packaged import export_steps
from retentive.files.targets import check_folder_target


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Compile a model's step ahead of time, for "generate --engine OUT".

    Args:
        model: Folder of a model.
        out: Folder that is made.
        format: "aoti" is AOTInductor's, for this release of torch and machines like this one.
        device: "cpu", "cuda", or "auto": a GPU where there is one.
    """

    model: Path
    out: Path
    format: Literal["aoti"] = "aoti"
    device: Literal["auto", "cpu", "cuda"] = "auto"


def add_options(parser: ArgumentParser, arguments: list[str]) -> None:
    """The two folders in their order, and how."""
    parser.add_argument("model", type=Path, help="folder of a model")
    parser.add_argument("out", type=Path, help="folder that is made")
    parser.add_argument("--format", choices=("aoti",), default="aoti", help="AOTInductor's packages")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where the steps will run")


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Export, and say how it is used."""
    config = read_config(parser, options, ExportConfig)
    check_folder_target("out", config.out)
    model = load_model(config.model, chosen_device(config.device))
    export_steps(model, config.out)
    print(f"the steps of {config.model} are in {config.out}; try:")
    print(f"  retentive generate {config.model} --engine {config.out}")
