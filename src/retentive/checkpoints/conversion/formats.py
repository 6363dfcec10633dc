"""The formats by name, and how the format of a checkpoint is recognised."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from retentive.checkpoints.conversion import retnet, transformer
from retentive.checkpoints.conversion.key_map import KeyMap, Shapes
from retentive.checkpoints.conversion.settings import Settings
from retentive.checkpoints.tensor_file import listed
from retentive.errors import MismatchError
from retentive.models.protocol import FamilyConfig


def _nothing(config: FamilyConfig) -> Mapping[str, Tensor]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """How another package keeps a model.

    Attributes:
        package: Name of the package.
        anchors: Names of tensors, without prefix, that together occur in this format only.
        key_map: Its tensors and ours.
        config: Turns its settings into our config.
        sizes: The sizes that `Entry.rows` names.
        fixed: Options of our config that have the same value in all its models.
        decays: Whether our model's heads decay as the package's do.
        derived: Values of `KeyMap.derived`.
        prefixes: What may stand before all names, the usual one first.
        model_type: What the settings say, where the names of the tensors are those of another format too.
    """

    package: str
    anchors: tuple[str, ...]
    key_map: KeyMap
    config: Callable[[Settings, Shapes], FamilyConfig]
    sizes: Callable[[FamilyConfig], Mapping[str, int]]
    fixed: Mapping[str, Any]
    decays: Callable[[FamilyConfig], bool] = lambda config: True
    derived: Callable[[FamilyConfig], Mapping[str, Tensor]] = _nothing
    prefixes: tuple[str, ...] = ("",)
    model_type: str | None = None


_retnet = partial(Format, sizes=retnet.sizes)
_like_torchscale = partial(
    _retnet,
    anchors=("embed_tokens.weight", "layers.0.retention.q_proj.weight"),
    fixed=retnet.TORCHSCALE_FIXED,
    derived=retnet.torchscale_derived,
)
_transformer = partial(Format, sizes=transformer.sizes)

FORMATS = {
    "fla": _retnet(
        package="flash-linear-attention",
        anchors=("model.embeddings.weight", "model.layers.0.attn.g_proj.weight"),
        key_map=retnet.FLA,
        fixed=retnet.FLA_FIXED,
        decays=retnet.geometric_decays,
        config=retnet.fla_config,
    ),
    "torchscale": _like_torchscale(
        package="torchscale",
        key_map=retnet.TORCHSCALE,
        decays=retnet.geometric_decays,
        config=retnet.torchscale_config,
        prefixes=("", "decoder."),
    ),
    "syncdoth": _like_torchscale(
        package="syncdoth/RetNet",
        key_map=retnet.SYNCDOTH,
        config=retnet.syncdoth_config,
        prefixes=("model.",),
    ),
    "yet-another-retnet": _retnet(
        package="yet-another-retnet",
        anchors=("embedding.weight", "decoder.layers.0.retention.q_proj.weight", "out.weight"),
        key_map=retnet.YET_ANOTHER_RETNET,
        fixed=retnet.YET_ANOTHER_RETNET_FIXED,
        decays=retnet.linspace_decays,
        config=retnet.yet_another_retnet_config,
        derived=retnet.yet_another_retnet_derived,
    ),
    "gpt2": _transformer(
        package="GPT-2 of Hugging Face",
        anchors=("wte.weight", "wpe.weight", "h.0.attn.c_attn.weight"),
        key_map=transformer.GPT2,
        fixed=transformer.GPT2_FIXED,
        config=transformer.gpt2_config,
        prefixes=("transformer.", ""),
    ),
    "llama": _transformer(
        package="Llama, Mistral, Qwen2 or Qwen3 of Hugging Face",
        anchors=("model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"),
        key_map=transformer.LLAMA,
        fixed=transformer.LLAMA_FIXED,
        config=transformer.llama_config,
    ),
    "gemma": _transformer(
        package="Gemma of Hugging Face",
        anchors=("model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"),
        key_map=transformer.GEMMA,
        fixed=transformer.GEMMA_FIXED,
        config=transformer.gemma_config,
        model_type="gemma",
    ),
}
"""Name -> format."""


def format_names() -> tuple[str, ...]:
    """Formats that can be converted from."""
    return tuple(FORMATS)


def format_of(names: Shapes, model_type: object = None) -> tuple[str, str]:
    """Name and prefix of the format that tensors of these names are in.

    Args:
        names: Of the tensors.
        model_type: What the settings say, which tells formats with the same names apart.

    Raises:
        MismatchError: If they are in none that is known.
    """
    own = {name: candidate for name, candidate in FORMATS.items() if candidate.model_type == model_type}
    for name, candidate in {**own, **FORMATS}.items():
        for prefix in candidate.prefixes:
            if has_anchors(candidate, prefix, names):
                return name, prefix
    candidates = [(name, prefix) for name, candidate in FORMATS.items() for prefix in candidate.prefixes]
    name, prefix = max(candidates, key=lambda one: _likeness(FORMATS[one[0]], one[1], names))
    said = "" if model_type is None else f" (its settings say model_type={model_type!r})"
    if _likeness(FORMATS[name], prefix, names):
        lacking = [prefix + anchor for anchor in FORMATS[name].anchors if prefix + anchor not in names]
        raise MismatchError(
            f"source must be in a format that is known here{said}, but lacks {listed(lacking)}, by which {name} "
            f"({FORMATS[name].package}), the format nearest to it, is told; copy it again."
        )
    known = ", ".join(f"{name} ({candidate.package})" for name, candidate in FORMATS.items())
    raise MismatchError(
        f"source must be in a format that is known here: {known}; but its tensors{said} have other names, the first of "
        f"them {min(names, default='none at all')}."
    )


def has_anchors(candidate: Format, prefix: str, names: Shapes) -> bool:
    """Whether tensors have the names by which a format is recognised."""
    return all(prefix + anchor in names for anchor in candidate.anchors)


def _likeness(candidate: Format, prefix: str, names: Shapes) -> int:
    """The number of tensors whose names belong to a format."""
    known = {prefix + name for entry in candidate.key_map.entries for name in entry.theirs}
    return sum(re.sub(r"(?<=\.)\d+(?=\.)", "{layer}", name) in known for name in names)


def unprefixed(names: Shapes, prefix: str) -> dict[str, str]:
    """Map names without a prefix to the names as they are; names that lack the prefix stay."""
    return {name.removeprefix(prefix): name for name in names}
