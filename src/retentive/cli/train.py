"""``retentive train``: a model from a token store."""

import dataclasses
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from retentive.cli.options import add_config, read_config
from retentive.data.token_store import TokenStore
from retentive.models.registry import family_names, preset, preset_names
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
    start = _start(family, size, _asked(arguments, "backbone"))
    if hasattr(start, "backbone"):
        backbones = [name for name in family_names() if name != family]
        kind = "Kind of decoder below --model.backbone."
        parser.add_argument("--backbone", default=start.backbone.family, choices=backbones, help=kind)
    add_config(parser, TrainConfig)
    _add_model(parser, "model", start)


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Train, or go on training, and say what came of it."""
    config = read_config(parser, options, TrainConfig)
    vocab_size = TokenStore.open(config.store).manifest.tokenizer.vocab_size
    start = _start(options.family, options.size, getattr(options, "backbone", None))
    model = _made(start, options.model.as_dict(), vocab_size)
    report = train(model, config)
    print("\n".join(report.lines()))
    if report.model is not None:
        print(f"next: retentive generate {report.model}")
        print(f"      retentive evaluate {report.model} --store {config.store}")


def _start(family: str, size: str, backbone: str | None) -> Any:
    """The config whose values are the defaults; with a backbone of another kind, that kind's of the same size."""
    start = preset(family, size)(257)
    if backbone is None or not hasattr(start, "backbone") or backbone == start.backbone.family:
        return start
    changes = {"causal_memory": True} if backbone == "retnet" else {}
    return dataclasses.replace(start, backbone=preset(backbone, size)(257), **changes)


def _add_model(parser: ArgumentParser, prefix: str, start: Any) -> None:
    """Options for every field of a model's config, those of a config inside it below its name."""
    fields = {field.name: getattr(start, field.name) for field in dataclasses.fields(start)}
    nested = {name: value for name, value in fields.items() if hasattr(value, "family")}
    skipped: set[str | int] = {name for name in ("vocab_size", *nested) if name in fields}
    parser.add_class_arguments(type(start), prefix, skip=skipped, instantiate=False)
    parser.set_defaults({f"{prefix}.{name}": value for name, value in fields.items() if name not in skipped})
    for name, value in nested.items():
        _add_model(parser, f"{prefix}.{name}", value)


def _made(start: Any, values: dict[str, Any], vocab_size: int) -> Any:
    """A model's config of the kind of ``start`` from parsed values."""
    fields = {field.name: getattr(start, field.name) for field in dataclasses.fields(start)}
    made = {
        name: _made(fields[name], value, vocab_size) if hasattr(fields[name], "family") else value
        for name, value in values.items()
    }
    return type(start)(**made, **({"vocab_size": vocab_size} if "vocab_size" in fields else {}))


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
