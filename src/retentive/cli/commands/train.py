"""``retentive train``: a model from a token store."""

import dataclasses
import sys
from pathlib import Path
from typing import Any, cast

from jsonargparse import ArgumentParser, Namespace

from retentive.checkpoints.manifest import read_manifest
from retentive.cli.options.file import ReadsOptionsFiles, typed_or_in_file
from retentive.cli.options.from_config import CommandParser, add_choice, add_config, read_config
from retentive.cli.options.model import (
    SOME_VOCABULARY,
    add_model_options,
    inner_option,
    read_model_options,
    starting_config,
)
from retentive.data.token_store import TokenStore
from retentive.errors import RetentiveError
from retentive.models.protocol import FamilyConfig
from retentive.models.registry import config_class, family_names, is_plain_decoder, preset_names
from retentive.renaming import old_names
from retentive.training.objectives import OBJECTIVES, ObjectiveConfig
from retentive.training.run.config import NeighbourDataConfig, TrainConfig
from retentive.training.run.trainer import train

DEFAULT_FAMILY = "retnet"
DEFAULT_OBJECTIVE = "next_token"
TORCHRUN = "torchrun --standalone --nproc-per-node 2 --no-python -- retentive train"


def add_options(parser: ArgumentParser, arguments: list[str]) -> None:
    """Every field of `TrainConfig`, and every option of the family's model below ``--model``."""
    parser.epilog = f"In several processes: {TORCHRUN} --store ... (-- ends the options of torchrun itself)"
    init = typed_or_in_file(arguments, "init") or None  # an empty path is refused when all is read
    family = typed_or_in_file(arguments, "family") or (
        DEFAULT_FAMILY if init is None else read_manifest(init).config.family
    )
    sizes = preset_names(family)
    size = typed_or_in_file(arguments, "size") or sizes[0]
    for name in ("init", "retrofit"):
        if typed_or_in_file(arguments, "size") and typed_or_in_file(arguments, name):
            raise ValueError(f"size must be left out with {name}, a saved model of its own sizes, but is {size!r}.")
    add_choice(parser, "family", family_names(), default=family, text="Kind of model.")
    add_choice(parser, "size", sizes, default=sizes[0], text="Where the options of --model start from.")
    trained = typed_or_in_file(arguments, "retrofit") or None
    inner = inner_option(family, size)
    renamed = old_names(config_class(family))
    kind = typed_or_in_file(arguments, inner, *(old for old in renamed if renamed[old] == inner)) if inner else None
    vocab_size = _vocab_size(typed_or_in_file(arguments, "store"))
    start = starting_config(family, size, kind, trained, init, vocab_size)
    if inner and trained is None:
        kinds = [name for name in family_names() if is_plain_decoder(name)]
        text = f"Kind of decoder below --model.{inner}."
        add_choice(parser, inner, kinds, default=getattr(start, inner).family, text=text)
        if isinstance(parser, ReadsOptionsFiles):
            parser.renamed |= {old: new for old, new in renamed.items() if new == inner}
    add_config(parser, TrainConfig, leave_out=frozenset({"objective"}))
    _add_objective(parser, typed_or_in_file(arguments, "objective") or DEFAULT_OBJECTIVE)
    add_model_options(parser, "model", start, whole=trained is None)


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Train, or go on training, and print the report; exit with 130 if training was stopped before its end."""
    config = read_config(parser, options, TrainConfig, objective=_read_objective(options))
    vocab_size = TokenStore.open(config.store).manifest.tokenizer.vocab_size
    inner = inner_option(options.family, options.size)
    kind = getattr(options, inner, None) if inner else None
    trained, init = (None if folder is None else str(folder) for folder in (config.retrofit, config.init))
    start = starting_config(options.family, options.size, kind, trained, init, vocab_size)
    if init is not None:  # a published model may have more rows than its tokenizer has tokens
        vocab_size = max(vocab_size, start.decoder.embedding.vocab_size)
    model = read_model_options(start, options.model.as_dict(), vocab_size)
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


def _vocab_size(store: str | None) -> int:
    """Ids of a store's tokenizer; some number where there is no store, which training then says."""
    try:
        return SOME_VOCABULARY if store is None else TokenStore.open(Path(store)).manifest.tokenizer.vocab_size
    except (OSError, RetentiveError):
        return SOME_VOCABULARY


def _add_objective(parser: ArgumentParser, name: str) -> None:
    """Options for what is minimised, and for the fields of its config below its name."""
    text = "What training minimises; with --help, its own options are shown as well."
    add_choice(parser, "objective", tuple(OBJECTIVES), default=DEFAULT_OBJECTIVE, text=text)
    if name in OBJECTIVES and dataclasses.fields(cast("Any", OBJECTIVES[name])):
        parser.add_class_arguments(OBJECTIVES[name], name, instantiate=False)
    if isinstance(parser, CommandParser):
        below = [other for other in OBJECTIVES if dataclasses.fields(cast("Any", OBJECTIVES[other]))]
        parser.elsewhere |= {other: f"these are options of --objective {other}" for other in below if other != name}
        example = name if name in below else next(iter(below))
        parser.elsewhere["objective"] = f"what an objective takes stands below its own name, --{example}.OPTION"


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
