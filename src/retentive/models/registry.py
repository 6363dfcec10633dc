"""Every family by name. A new family is one folder here and one line below."""

import dataclasses
import json
import types
import typing
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, cast

from retentive.config_types import check_kind
from retentive.errors import MismatchError
from retentive.models.base import DecoderModel
from retentive.models.protocol import FamilyConfig, ModelConfig
from retentive.renaming import by_new_names

FAMILIES = {
    "transformer": ("retentive.models.transformer", "TransformerConfig", "Transformer"),
    "retnet": ("retentive.models.retnet", "RetNetConfig", "RetNet"),
    "hybrid": ("retentive.models.hybrid", "HybridConfig", "Hybrid"),
    "yoco": ("retentive.models.yoco", "YocoConfig", "Yoco"),
    "retro": ("retentive.models.retro", "RetroConfig", "Retro"),
    "rmt": ("retentive.models.rmt", "RecurrentMemoryConfig", "RecurrentMemoryTransformer"),
}
"""Name -> package (with `PRESETS`), config class, model class; imported when asked for."""

_OF_A_DICT = "give a family's config, such as RetNetConfig(**values), or what config_from_dict makes of a dict"
HEADS = {
    "rmt_classifier": ("retentive.models.rmt.classifier", "ClassifierConfig", "classifier_of"),
    "reverse_complement": ("retentive.nucleotides.model", "ReverseComplementConfig", "reverse_complement_of"),
}
"""Models that are no language models, alike: they are built, saved and loaded by their configs, and are no family."""


def family_names() -> tuple[str, ...]:
    """The families, in the order of the registry."""
    return tuple(FAMILIES)


def config_class(family: str) -> type[Any]:
    """The frozen dataclass that describes a model of the family."""
    module, config, _ = HEADS[family] if family in HEADS else _entry(family)
    return getattr(import_module(module), config)


def model_class(family: str) -> type[DecoderModel]:
    """The model of the family."""
    module, _, model = _entry(family)
    return getattr(import_module(module), model)


def is_plain_decoder(family: str) -> bool:
    """Whether a family is a decoder and nothing around it, so that other families can be built around it."""
    return model_class(family).is_plain_decoder


def check_is_plain(name: str, config: object) -> None:
    """Refuse what is no config of a plain decoder, which another family is built around.

    Args:
        name: The argument, for the message.
        config: What was given.

    Raises:
        TypeError: If it is no config.
        ValueError: If it is of another family.
    """
    check_kind(name, config, ModelConfig, cure="give a config, such as TransformerConfig(**values)")
    assert isinstance(config, ModelConfig)
    if not is_plain_decoder(config.family):
        raise ValueError(f"{name} must be a plain decoder's config, such as a transformer's, not a {config.family}'s.")


def build(config: FamilyConfig) -> DecoderModel:
    """Make the model that a config describes."""
    check_kind("config", config, ModelConfig, cure=_OF_A_DICT)
    if config.family in HEADS:
        module, _, maker = HEADS[config.family]
        return getattr(import_module(module), maker)(config)
    return model_class(config.family)(config)


def preset_names(family: str) -> tuple[str, ...]:
    """The family's ready-made sizes, the one to start with first."""
    return tuple(_presets(family))


def preset(family: str, size: str) -> Callable[[int], Any]:
    """A ready-made size: called with ``vocab_size``, it gives the config.

    Raises:
        ValueError: If the family has no such size.
    """
    presets = _presets(family)
    if size not in presets:
        raise ValueError(f"size of a {family} must be one of {', '.join(presets)}, but is {size!r}.")
    return presets[size]


def _presets(family: str) -> Mapping[str, Callable[[int], Any]]:
    return import_module(_entry(family)[0]).PRESETS


def config_to_dict(config: ModelConfig) -> dict[str, Any]:
    """Return a config as JSON values, with its family's name; nested configs of families alike."""
    check_kind("config", config, ModelConfig, cure=_OF_A_DICT)
    names = [field.name for field in dataclasses.fields(cast("Any", config))]
    return {"family": config.family, **{name: _plain(getattr(config, name)) for name in names}}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return config_to_dict(cast("ModelConfig", value)) if hasattr(value, "family") else dataclasses.asdict(value)
    return value


def config_from_dict(values: Mapping[str, Any]) -> Any:
    """The config that `config_to_dict` wrote, now or when an option had another name.

    Raises:
        MismatchError: If a key is unknown or missing; the message names it.
        ValueError: If the family is unknown, a value cannot be, or an option has both of its names.
    """
    check_kind("values", values, Mapping, cure="config_to_dict makes one of a config")
    values = dict(values)
    if "family" not in values:
        raise MismatchError(f"config must name its family, one of {', '.join(FAMILIES)}, but has no key 'family'.")
    return _from_dict(config_class(values.pop("family")), values)


def described_now(described: Mapping[str, Any]) -> dict[str, Any]:
    """What `config_to_dict` writes now, as JSON holds it, of a config that was written before.

    Options have today's names, and those that came since are at their defaults. A config that cannot be read here stays
    as it is, so that whoever compares it can tell what is unknown.
    """
    try:
        return json.loads(json.dumps(config_to_dict(config_from_dict(described))))
    except (MismatchError, ValueError, TypeError, OverflowError):
        return dict(described)


def _from_dict(kind: type[Any], values: Mapping[str, Any]) -> Any:
    values = by_new_names(kind, values)
    known = {field.name: field for field in dataclasses.fields(kind)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise MismatchError(f"{kind.__name__} has no option {', '.join(unknown)}; it has {', '.join(known)}.")
    required = {
        name
        for name, field in known.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    missing = sorted(required - set(values))
    if missing:
        raise MismatchError(f"{kind.__name__} needs {', '.join(missing)}, which the config lacks.")
    hints = typing.get_type_hints(kind)
    return kind(**{name: _value(hints[name], value) for name, value in values.items()})


def _value(hint: Any, value: Any) -> Any:
    """Rebuild nested configs and tuples, which JSON holds as objects and lists."""
    if isinstance(value, list):
        return tuple(cast("list[Any]", value))
    if not isinstance(value, Mapping):
        return value
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    nested = [option for option in options if dataclasses.is_dataclass(option)]
    values = dict(cast("Mapping[str, Any]", value))
    if "family" in values:
        return config_from_dict(values)
    if len(nested) != 1:
        raise MismatchError(f"a nested config must name its family, but has only the keys {', '.join(values)}.")
    return _from_dict(cast("type[Any]", nested[0]), values)


def _entry(family: str) -> tuple[str, str, str]:
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, but is {family!r}.")
    return FAMILIES[family]
