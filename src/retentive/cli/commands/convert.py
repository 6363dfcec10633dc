"""``retentive convert``: a checkpoint of another package becomes one of ours."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from jsonargparse import ArgumentParser, Namespace

from retentive.checkpoints.conversion import convert, format_names
from retentive.checkpoints.conversion.gguf import SUFFIX, read_tokenizer
from retentive.checkpoints.tensor_file import shapes_of
from retentive.checkpoints.weights import SavableTokenizer
from retentive.cli.options.from_config import read_config
from retentive.text.loading import load_tokenizer
from retentive.text.tokenizer import TOKENIZER_FILE


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """Turn a checkpoint of another package into one of ours.

    Args:
        source: A folder as the other package or Hugging Face writes it, a file of its weights, or a GGUF file, which
            holds its tokenizer too.
        dest: Folder that is made.
        format: Which package it is of; "auto" tells from the names of its tensors.
        settings: A JSON file of the model's settings by the package's own names, where no config.json is beside the
            weights.
        end_of_text: The token that ends a document, where the tokenizer beside the weights does not say.
    """

    source: Path
    dest: Path
    format: str = "auto"
    settings: Path | None = None
    end_of_text: str | None = None


def add_options(parser: ArgumentParser, arguments: list[str]) -> None:
    """``--from``, which Python does not allow as a field, and the two folders in their order."""
    parser.add_argument("source", type=Path, help="folder or file of the other package")
    parser.add_argument("dest", type=Path, help="folder that is made")
    parser.add_argument(
        "--from",
        dest="format",
        default="auto",
        help=f"its package: {', '.join(format_names())}; 'auto' tells from the names of its tensors",
    )
    parser.add_argument("--settings", type=Path, default=None, help="JSON file of its settings by its own names")
    parser.add_argument("--end_of_text", type=str, default=None, help="token that ends a document")


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Convert, and print what was converted, assumed and left out."""
    config = read_config(parser, options, ConvertConfig)
    tokenizer = _tokenizer(config)
    found = convert(config.source, config.dest, format=config.format, settings=config.settings, tokenizer=tokenizer)
    count = sum(shape.numel() for shape in shapes_of(found.tensors).values())
    print(f"{found.format}: a {found.config.family} of {count:,} parameters is in {config.dest}")
    if found.assumed:
        said = ", ".join(f"{name}={value}" for name, value in found.assumed.items())
        print(f"settings that the source does not give, with the package's defaults: {said}")
    if found.left_behind:
        left = ", ".join(f"{name}={value}" for name, value in found.left_behind.items())
        print(f"settings that were not converted (they matter in further training only): {left}")
    if config.source.suffix == SUFFIX:
        print(f"try: retentive generate {config.dest} --prompt 'Once upon a time'")
    if tokenizer is None:
        print(f"without a tokenizer: there is no {TOKENIZER_FILE} beside its weights")


def _tokenizer(config: ConvertConfig) -> SavableTokenizer | None:
    if config.source.suffix == SUFFIX:
        return cast("SavableTokenizer", read_tokenizer(config.source, config.end_of_text))
    folder = config.source if config.source.is_dir() else config.source.parent
    if not (folder / TOKENIZER_FILE).is_file():
        return None
    return load_tokenizer(folder / TOKENIZER_FILE, end_of_text=config.end_of_text)
