"""``retentive train``: a model from a token store."""

import dataclasses
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from retentive.cli.options import add_config, read_config
from retentive.data.token_store import TokenStore
from retentive.models.registry import config_class, family_names, preset, preset_names
from retentive.training.config import TrainConfig
from retentive.training.trainer import train

DEFAULT_FAMILY = "retnet"


def add_options(parser: ArgumentParser, arguments: list[str]) -> None:
    """Every field of `TrainConfig`, and every option of the family's model below ``--model``."""
    family = _asked(arguments, "family") or DEFAULT_FAMILY
    sizes = preset_names(family)
    size = _asked(arguments, "size") or sizes[0]
    parser.add_argument("--family", default=DEFAULT_FAMILY, choices=family_names(), help="Kind of model.")
    parser.add_argument("--size", default=sizes[0], choices=sizes, help="Where the options of --model start from.")
    add_config(parser, TrainConfig)
    parser.add_class_arguments(config_class(family), "model", skip={"vocab_size"}, instantiate=False)
    start = preset(family, size)(257)
    defaults = {field.name: getattr(start, field.name) for field in dataclasses.fields(start)}
    del defaults["vocab_size"]
    parser.set_defaults({f"model.{name}": value for name, value in defaults.items()})


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Train, or go on training, and say what came of it."""
    config = read_config(parser, options, TrainConfig)
    vocab_size = TokenStore.open(config.store).manifest.tokenizer.vocab_size
    values: dict[str, Any] = options.model.as_dict()
    model = config_class(options.family)(vocab_size=vocab_size, **values)
    report = train(model, config)
    print("\n".join(report.lines()))
    if report.model is not None:
        print(f"next: retentive generate {report.model}")
        print(f"      retentive evaluate {report.model} --store {config.store}")


def _asked(arguments: list[str], option: str) -> str | None:
    """The value of an option that decides which other options there are: typed, or in the YAML file that is named."""
    found = None
    for place, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        value = value or next(iter(arguments[place + 1 :]), "")
        if name == f"--{option}":
            found = value
        elif name == "--config" and found is None:
            try:
                with open(value, encoding="utf-8") as file:  # noqa: PTH123 - the parser reports what is wrong with it
                    content = yaml.safe_load(file)
            except (OSError, yaml.YAMLError):
                continue
            found = content.get(option) if isinstance(content, dict) else None
    return found
