"""``retentive export``: a model's step made ahead of time."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from retentive.checkpoints import load_model
from retentive.checkpoints.devices import chosen_device
from retentive.cli.options.from_config import add_choice, read_config
from retentive.engine.packaged import FORMATS, export_steps
from retentive.files.targets import check_folder_target


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Make a model's step ahead of time, for "generate --engine OUT".

    Args:
        model: Folder of a model.
        out: Folder that is made.
        format: "aoti" is AOTInductor's, for this release of torch and machines like this one; "onnx" is a file for
            onnxruntime on CPUs.
        bits: Round the weights of an ONNX file to 8 or 4 bits; without it, they stay float32.
        device: "cpu", "cuda", or "auto": a GPU where there is one.
    """

    model: Path
    out: Path
    format: Literal["aoti", "onnx"] = "aoti"
    bits: Literal[8, 4] | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"


def add_options(parser: ArgumentParser, arguments: list[str]) -> None:
    """The two folders in their order, and how."""
    parser.add_argument("model", type=Path, help="folder of a model")
    parser.add_argument("out", type=Path, help="folder that is made")
    add_choice(parser, "format", FORMATS, default="aoti", text="AOTInductor's packages, or an ONNX file")
    parser.add_argument("--bits", type=int, help="8 or 4: round the weights of an ONNX file")
    add_choice(parser, "device", ("auto", "cpu", "cuda"), default="auto", text="where the steps will run")


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Export, and say how it is used."""
    config = read_config(parser, options, ExportConfig)
    check_folder_target("out", config.out)
    # A model that is on a GPU by itself can still become a file for CPUs.
    device = "cpu" if (config.format, config.device) == ("onnx", "auto") else config.device
    model = load_model(config.model, chosen_device(device))
    export_steps(model, config.out, format=config.format, bits=config.bits)
    print(f"the steps of {config.model} are in {config.out}; try:")
    print(f"  retentive generate {config.model} --engine {config.out}")
