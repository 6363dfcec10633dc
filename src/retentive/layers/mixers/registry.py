"""Every mixer by name. A new mixer is one file beside this one and one line below."""

from collections.abc import Callable
from dataclasses import dataclass, fields

from retentive.layers.mixers.attention import AttentionConfig
from retentive.layers.mixers.gated_retention import GatedRetentionConfig
from retentive.layers.mixers.protocol import MixerConfig, MixerSizes, missing_parts
from retentive.layers.mixers.retention import RetentionConfig


@dataclass(frozen=True, slots=True)
class MixerKind:
    """How a mixer is made for a layer of a family that takes any.

    Attributes:
        make: From a family's sizes to the mixer's config.
        options: Sizes that it takes beside ``hidden_size``, ``num_heads`` and ``key_dim``; others mean nothing to it.
    """

    make: Callable[[MixerSizes], MixerConfig]
    options: frozenset[str] = frozenset()


_RETENTION = frozenset({"value_dim", "rotary_base", "norm_epsilon", "bias", "chunk_size"})
_ATTENTION = frozenset({"value_dim", "num_kv_heads", "rotary_base", "bias", "dropout"})

MIXERS: dict[str, MixerKind] = {
    "retention": MixerKind(RetentionConfig.of_sizes, _RETENTION),
    "gated_retention": MixerKind(GatedRetentionConfig.of_sizes, _RETENTION),
    "attention": MixerKind(AttentionConfig.of_sizes, _ATTENTION),
    "window_attention": MixerKind(AttentionConfig.of_sizes_with_window, _ATTENTION | {"window"}),
}
"""Name -> kind; see `register_mixer` for a mixer from outside."""


def register_mixer(name: str, make: Callable[[MixerSizes], MixerConfig], options: frozenset[str] = frozenset()) -> None:
    """Add a mixer of your own, so that a pattern can name it.

    Args:
        name: A new one, as it stands in configs and files.
        make: From a family's sizes to a frozen config, as `MixerConfig` describes it.
        options: Names of `MixerSizes` that it takes beside ``hidden_size``, ``num_heads`` and ``key_dim``; a model
            that gives another is refused.

    Raises:
        ValueError: If another mixer has the name, or an option is no field of `MixerSizes`.
    """
    known_sizes = [field.name for field in fields(MixerSizes)]
    if unknown := sorted(set(options) - set(known_sizes)):
        raise ValueError(
            f"options of a mixer must be fields of MixerSizes, but {', '.join(map(repr, unknown))} are not: take some "
            f"of {', '.join(known_sizes)}."
        )
    known = MIXERS.get(name)
    if known is not None and known.make != make:
        raise ValueError(f"name of a mixer must be new, but {name!r} is taken; its names are {', '.join(MIXERS)}.")
    MIXERS[name] = MixerKind(make, options)


def make_mixer(name: str, sizes: MixerSizes) -> MixerConfig:
    """Make the config of a mixer.

    Raises:
        ValueError: If no mixer has the name, or a size is out of range.
        TypeError: If what is made is no `MixerConfig`.
    """
    made = kind_of(name).make(sizes)
    if missing := missing_parts(made, MixerConfig):
        raise TypeError(
            f"the mixer {name!r} must make a MixerConfig, but its {type(made).__name__} lacks {', '.join(missing)}: "
            "see retentive.layers.mixers.protocol."
        )
    return made


def kind_of(name: str) -> MixerKind:
    """Look a mixer up.

    Raises:
        ValueError: If no mixer has the name.
    """
    if name not in MIXERS:
        raise ValueError(
            f"mixer must be one of {', '.join(MIXERS)}, but is {name!r}; register_mixer adds one of your own."
        )
    return MIXERS[name]
