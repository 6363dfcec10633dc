"""Options for the fields of a model's config, whose defaults are those of a preset or of a saved model."""

import dataclasses
from typing import Any

from jsonargparse import ArgumentParser

from retentive.checkpoints.manifest import read_manifest
from retentive.cli.options.file import ReadsOptionsFiles
from retentive.models.protocol import FamilyConfig
from retentive.models.registry import family_names, is_plain_decoder, preset, preset_names
from retentive.models.retro import retro_over
from retentive.private_apis import options_of
from retentive.renaming import old_names


def inner_option(family: str, size: str) -> str | None:
    """The option of a family's config that is another family's config; None where there is none."""
    if size not in preset_names(family):
        return None  # the parser says so
    start = preset(family, size)(SOME_VOCABULARY)
    return next(
        (field.name for field in dataclasses.fields(start) if hasattr(getattr(start, field.name), "family")), None
    )


SOME_VOCABULARY = 257
"""Ids of a tokenizer that is not known yet: bytes and end-of-text."""


def starting_config(
    family: str,
    size: str,
    inner: str | None,
    trained: str | None,
    init: str | None,
    vocab_size: int = SOME_VOCABULARY,
) -> Any:
    """The config whose values are the defaults.

    Args:
        family: Of the model.
        size: Its preset.
        inner: Kind of the decoder inside it; None is the preset's.
        trained: Folder of a trained model that is to be the decoder inside it.
        init: Folder of a saved model whose weights the run begins with.
        vocab_size: Of the text; a RETRO's chunks are so many tokens of it that they have about 60 bytes.
    """
    if init is not None:
        saved = read_manifest(init).config
        if family != saved.family:
            around = f"; --retrofit {init} builds a {family} around it" if _goes_around(family, saved.family) else ""
            raise ValueError(
                f"init is the folder of a {saved.family}, so family must be that, but is {family!r}{around}."
            )
        name = inner_option(family, size)
        if name is not None and inner not in (None, getattr(saved, name).family):
            raise ValueError(
                f"init holds a {family} over a {getattr(saved, name).family}, so {name} must be that, but is {inner!r}."
            )
        return saved
    if trained is not None:
        backbone = read_manifest(trained).config
        if not _goes_around(family, backbone.family):
            raise ValueError(
                f"retrofit needs --family retro or rmt, which are built around a trained decoder, and the folder of a "
                f"decoder, but family is {family!r} and {trained} holds a {backbone.family}."
            )
        return _over(family, size, backbone, vocab_size)
    start = preset(family, size)(vocab_size)
    name = inner_option(family, size)
    if inner is None or name is None or inner == getattr(start, name).family:
        return start
    decoder = preset(inner, size)(vocab_size)
    return _over(family, size, decoder, vocab_size, causal_memory=not decoder.decoder.takes_attention_mask)


def _goes_around(family: str, inner: str) -> bool:
    """Whether models of a family are built around trained ones of another."""
    return family in ("retro", "rmt") and inner in family_names() and is_plain_decoder(inner)


def _over(family: str, size: str, decoder: FamilyConfig, vocab_size: int, *, causal_memory: bool = True) -> Any:
    """A preset around another decoder; memory tokens of a trained one are read as its own tokens are."""
    if family == "retro":
        return retro_over(decoder)
    start = preset(family, size)(vocab_size)
    longest = decoder.decoder.embedding.max_positions
    length = start.segment_length if longest is None else min(start.segment_length, longest)
    return dataclasses.replace(start, backbone=decoder, segment_length=length, causal_memory=causal_memory)


def add_model_options(parser: ArgumentParser, prefix: str, start: Any, *, whole: bool = True) -> None:
    """Options for every field of a model's config, those of a config inside it below its name, if ``whole``."""
    fields = {field.name: getattr(start, field.name) for field in dataclasses.fields(start)}
    nested = {name: value for name, value in fields.items() if hasattr(value, "family")}
    if isinstance(parser, ReadsOptionsFiles):
        parser.renamed |= {f"{prefix}.{old}": f"{prefix}.{new}" for old, new in old_names(type(start)).items()}
    skipped: set[str | int] = {name for name in ("vocab_size", *nested) if name in fields}
    parser.add_class_arguments(type(start), prefix, skip=skipped, instantiate=False)
    defaults = {f"{prefix}.{name}": value for name, value in fields.items() if name not in skipped}
    parser.set_defaults(defaults)
    for action in options_of(parser):
        if action.dest in defaults:
            action.required = False  # the config asks for it, and the size gives it
    for name, value in nested.items() if whole else ():
        add_model_options(parser, f"{prefix}.{name}", value)


def read_model_options(start: Any, values: dict[str, Any], vocab_size: int) -> Any:
    """A model's config of the kind of ``start`` from parsed values."""
    fields = {field.name: getattr(start, field.name) for field in dataclasses.fields(start)}
    made = {
        name: read_model_options(fields[name], value, vocab_size) if hasattr(fields[name], "family") else value
        for name, value in values.items()
    }
    # A saved model inside has no options: its config is fixed by its weights.
    made |= {name: value for name, value in fields.items() if hasattr(value, "family") and name not in made}
    return type(start)(**made, **({"vocab_size": vocab_size} if "vocab_size" in fields else {}))
