"""``retentive train``: a model from a token store."""

import dataclasses
import sys
from pathlib import Path
from typing import Any, cast

from jsonargparse import ArgumentParser, Namespace

from retentive.checkpoints.manifest import read_manifest
from retentive.cli.options import add_config, read_config
from retentive.cli.options_file import read_options
from retentive.data.token_store import TokenStore
from retentive.models.base import FamilyConfig
from retentive.models.registry import family_names, is_plain_decoder, preset, preset_names
from retentive.models.retro import retro_over
from retentive.training.objectives import OBJECTIVES, ObjectiveConfig
from retentive.training.run.config import NeighbourDataConfig, TrainConfig
from retentive.training.run.trainer import train

DEFAULT_FAMILY = "retnet"
DEFAULT_OBJECTIVE = "next_token"
TORCHRUN = "torchrun --standalone --nproc-per-node 2 --no-python -- retentive train"


def add_options(parser: ArgumentParser, arguments: list[str]) -> None:
    """Every field of `TrainConfig`, and every option of the family's model below ``--model``."""
    parser.epilog = f"In several processes: {TORCHRUN} --store ... (-- ends the options of torchrun itself)"
    init = _asked(arguments, "init")
    family = _asked(arguments, "family") or (DEFAULT_FAMILY if init is None else read_manifest(init).config.family)
    sizes = preset_names(family)
    size = _asked(arguments, "size") or sizes[0]
    parser.add_argument("--family", default=family, choices=family_names(), help="Kind of model.")
    parser.add_argument("--size", default=sizes[0], choices=sizes, help="Where the options of --model start from.")
    trained = _asked(arguments, "retrofit")
    inner = _inner(family, size)
    start = _start(family, size, _asked(arguments, inner) if inner else None, trained, init)
    if inner and trained is None:
        kinds = [name for name in family_names() if is_plain_decoder(name)]
        kind = f"Kind of decoder below --model.{inner}."
        parser.add_argument(f"--{inner}", default=getattr(start, inner).family, choices=kinds, help=kind)
    add_config(parser, TrainConfig, leave_out=frozenset({"objective"}))
    _add_objective(parser, _asked(arguments, "objective") or DEFAULT_OBJECTIVE)
    _add_model(parser, "model", start, whole=trained is None)


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Train, or go on training, and say what came of it; exit with 130 where it was asked to stop before the end."""
    config = read_config(parser, options, TrainConfig, objective=_read_objective(options))
    vocab_size = TokenStore.open(config.store).manifest.tokenizer.vocab_size
    inner = _inner(options.family, options.size)
    kind = getattr(options, inner, None) if inner else None
    trained, init = (None if folder is None else str(folder) for folder in (config.retrofit, config.init))
    start = _start(options.family, options.size, kind, trained, init)
    model = _made(start, options.model.as_dict(), vocab_size)
    report = train(model, config)
    lines = report.lines()
    if report.model is not None and not report.predicts_next_token:
        lines.append(f'next: retentive.load_model("{report.model}")  # an encoder: its logits are of the token itself')
    elif report.model is not None:
        lines.append(f"next: retentive generate {report.model}{_with_store(model, config)}")
        lines.append(f"      retentive evaluate {report.model} --store {config.store}{_with_neighbours(model, config)}")
    if report.rank == 0:  # of several processes one speaks
        print("\n".join(lines))
    if report.model is None:
        sys.exit(130)  # so that a script does not go on with a model that is not there, or that of an earlier run


def _add_objective(parser: ArgumentParser, name: str) -> None:
    """Options for what is minimised, and for the fields of its config below its name."""
    text = "What training minimises; with --help, its own options are shown as well."
    parser.add_argument("--objective", default=DEFAULT_OBJECTIVE, choices=tuple(OBJECTIVES), help=text)
    if name in OBJECTIVES and dataclasses.fields(cast("Any", OBJECTIVES[name])):
        parser.add_class_arguments(OBJECTIVES[name], name, instantiate=False)


def _read_objective(options: Namespace) -> ObjectiveConfig:
    values = options.get(options.objective)
    return OBJECTIVES[options.objective](**({} if values is None else values.as_dict()))


def _with_neighbours(model: FamilyConfig, config: TrainConfig) -> str:
    """The options with which a model is evaluated on the neighbours that it was trained with."""
    if model.chunked_reading is None:
        return ""
    asked, usual = config.neighbours, NeighbourDataConfig()
    k = "" if asked.k == usual.k else f" --k {asked.k}"
    near = "" if asked.near_duplicates is None else f" --near-duplicates {asked.near_duplicates}"
    folder = "" if asked.folder is None else f" --neighbours-folder {asked.folder}"
    return f" --neighbours{k}{near}{folder}"


def _with_store(model: FamilyConfig, config: TrainConfig) -> str:
    """The options with which a model that reads neighbours finds them where it did in training."""
    if model.chunked_reading is None:
        return ""
    asked = config.neighbours
    k = "" if asked.k == NeighbourDataConfig().k else f" --k {asked.k}"
    return f" --store {config.store if asked.folder is None else asked.folder / 'train'}{k} --show-neighbours"


def _inner(family: str, size: str) -> str | None:
    """The option of a family's config that is another family's config; None where there is none."""
    if size not in preset_names(family):
        return None  # the parser says so
    start = preset(family, size)(257)
    return next(
        (field.name for field in dataclasses.fields(start) if hasattr(getattr(start, field.name), "family")), None
    )


def _start(family: str, size: str, inner: str | None, trained: str | None, init: str | None) -> Any:
    """The config whose values are the defaults.

    Args:
        family: Of the model.
        size: Its preset.
        inner: Kind of the decoder inside it; None is the preset's.
        trained: Folder of a trained model that is to be the decoder inside it.
        init: Folder of a saved model whose weights the run begins with.
    """
    if init is not None:
        saved = read_manifest(init).config
        if family != saved.family:
            raise ValueError(f"init is the folder of a {saved.family}, so family must be that, but is {family!r}.")
        return saved
    if trained is not None:
        if family != "retro":
            raise ValueError(f"retrofit needs --family retro, which reads neighbours, but family is {family!r}.")
        return retro_over(read_manifest(trained).config)
    start = preset(family, size)(257)
    name = _inner(family, size)
    if inner is None or name is None or inner == getattr(start, name).family:
        return start
    decoder = preset(inner, size)(257)
    if family == "retro":
        return retro_over(decoder)
    changes = {"causal_memory": True} if inner == "retnet" else {}
    return dataclasses.replace(start, **{name: decoder}, **changes)


def _add_model(parser: ArgumentParser, prefix: str, start: Any, *, whole: bool = True) -> None:
    """Options for every field of a model's config, those of a config inside it below its name, if ``whole``."""
    fields = {field.name: getattr(start, field.name) for field in dataclasses.fields(start)}
    nested = {name: value for name, value in fields.items() if hasattr(value, "family")}
    skipped: set[str | int] = {name for name in ("vocab_size", *nested) if name in fields}
    parser.add_class_arguments(type(start), prefix, skip=skipped, instantiate=False)
    defaults = {f"{prefix}.{name}": value for name, value in fields.items() if name not in skipped}
    parser.set_defaults(defaults)
    for action in parser._actions:  # pyright: ignore[reportPrivateUsage] - it has no other way to find an option
        if action.dest in defaults:
            action.required = False  # the config asks for it, and the size gives it
    for name, value in nested.items() if whole else ():
        _add_model(parser, f"{prefix}.{name}", value)


def _made(start: Any, values: dict[str, Any], vocab_size: int) -> Any:
    """A model's config of the kind of ``start`` from parsed values."""
    fields = {field.name: getattr(start, field.name) for field in dataclasses.fields(start)}
    made = {
        name: _made(fields[name], value, vocab_size) if hasattr(fields[name], "family") else value
        for name, value in values.items()
    }
    # A trained model inside has no options: it is what it is.
    made |= {name: value for name, value in fields.items() if hasattr(value, "family") and name not in made}
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
            found = read_options(Path(value)).get(option) if Path(value).is_file() else None
    return found
