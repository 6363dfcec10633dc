"""Converting checkpoints of other packages into ours."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retentive.checkpoints.conversion.companions import check_companions, copy_companions, keep_special_ids, origin_of
from retentive.checkpoints.conversion.formats import FORMATS, format_of, unprefixed
from retentive.checkpoints.conversion.gguf import SUFFIX
from retentive.checkpoints.conversion.key_map import to_ours, to_theirs
from retentive.checkpoints.conversion.settings import Settings
from retentive.checkpoints.conversion.source import open_source
from retentive.checkpoints.manifest import CONFIG_FILE
from retentive.checkpoints.model_card import save_model_card
from retentive.checkpoints.weights import SavableTokenizer, save_model
from retentive.errors import MismatchError
from retentive.files import new_folder
from retentive.files.targets import check_new_folder
from retentive.models.base import DecoderModel
from retentive.models.protocol import FamilyConfig
from retentive.models.registry import build


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """A checkpoint of another package, as ours.

    Attributes:
        format: Name of its format.
        config: Of the model.
        tensors: The model's, by our names, in the dtype that they had.
        assumed: Settings that the checkpoint does not give, with the package's defaults.
        left_behind: Settings, by the package's names, that this library lacks and that matter only in further
            training, such as a dropout.
        settings: All of the package's settings, as they were read.
    """

    format: str
    config: FamilyConfig
    tensors: Mapping[str, Tensor]
    assumed: Mapping[str, Any]
    left_behind: Mapping[str, Any]
    settings: Mapping[str, Any]

    def model(self) -> DecoderModel:
        """The model, in eval mode."""
        with torch.device("meta"):
            model = build(self.config)
        model.load_state_dict(dict(self.tensors), assign=True)
        return model.eval()


def read_foreign(source: Path | str, *, format: str = "auto", settings: Path | str | None = None) -> Converted:
    """Read a model of another package.

    Args:
        source: A folder or a file of its weights.
        format: One of `format_names`, or ``auto``: recognised from the names of the tensors.
        settings: A JSON file of the package's settings, where no ``config.json`` is beside the weights.

    Raises:
        FileNotFoundError: If there are no weights.
        DamagedFileError: If a file is cut off or a shard is missing.
        MismatchError: If the format is unknown, or another than the given one; if a setting is not supported; if a
            tensor is missing, unexpected, or of another shape.
        ValueError: If there is no such format.
    """
    found = read_late(source, format=format, settings=settings)
    return replace(found, tensors=dict(found.tensors))


def read_late(source: Path | str, *, format: str = "auto", settings: Path | str | None = None) -> Converted:
    """`read_foreign`, with tensors that are read each time they are asked for: memory holds one at a time."""
    if format != "auto" and format not in FORMATS:
        raise ValueError(f"format must be auto or one of {', '.join(FORMATS)}, but is {format!r}.")
    opened = open_source(source, settings)
    name, prefix = format_of(opened.shapes, opened.settings.get("model_type"))
    if format not in ("auto", name):
        raise MismatchError(f"source must be in the format {format!r}, but the names of its tensors are {name!r}'s.")
    found = FORMATS[name]
    names = unprefixed(opened.shapes, prefix)
    shapes = {bare: opened.shapes[full] for bare, full in names.items()}
    said = Settings(opened.settings, str(opened.path))
    config = found.config(said, shapes)
    with torch.device("meta"):
        expected = {key: tensor.shape for key, tensor in build(config).state_dict().items()}
    tensors = to_ours(
        found.key_map,
        shapes,
        lambda bare: opened.read(names[bare]),
        expected,
        found.sizes(config),
        found.derived(config),
        str(opened.path),
    )
    return Converted(
        format=name,
        config=config,
        tensors=tensors,
        assumed=said.assumed,
        left_behind=said.left_behind,
        settings=opened.settings,
    )


def convert(
    source: Path | str,
    dest: Path | str,
    *,
    format: str = "auto",
    settings: Path | str | None = None,
    tokenizer: SavableTokenizer | None = None,
) -> Converted:
    """Read a model of another package and save it as ours, where `load_model` finds it.

    The ids that begin and end a text, ``generation_config.json`` and files of the licence come along; the card names
    the origin.

    Args:
        source: A folder or a file of its weights.
        dest: Folder that is made.
        format: One of `format_names`, or ``auto``.
        settings: A JSON file of the package's settings, where no ``config.json`` is beside the weights.
        tokenizer: Saved beside the model.

    Raises:
        FileExistsError: If ``dest`` is not empty.
        ValueError: If ``dest`` cannot be written.
        MismatchError: As `read_foreign`, which raises the others too.
    """
    dest = Path(dest)
    check_new_folder("dest", dest)
    check_companions(Path(source))
    converted = read_late(source, format=format, settings=settings)
    with torch.device("meta"):
        skeleton = build(converted.config)
    with new_folder(dest, last=CONFIG_FILE) as unfinished:
        save_model(skeleton, unfinished, tokenizer, weights=converted.tensors)
        if Path(source).suffix != SUFFIX:  # a GGUF file holds all that belongs to it, and may lie among others
            copy_companions(Path(source), unfinished)
        keep_special_ids(unfinished, converted.settings, tokenizer)
        origin = origin_of(Path(source), converted.settings, FORMATS[converted.format].package)
        save_model_card(unfinished, origin=origin)
    return converted


def to_foreign(model: DecoderModel, format: str) -> dict[str, Tensor]:
    """A model's tensors under another package's names: the inverse of `read_foreign`.

    Args:
        model: A model that the package can compute.
        format: One of `format_names`.

    Raises:
        ValueError: If there is no such format.
        MismatchError: If the model has a tensor that the format has no place for, or an option with which the package
            would compute something else.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, but is {format!r}.")
    found = FORMATS[format]
    options = {name: getattr(model.config, name, None) for name in found.fixed}
    differing = [f"{name}={has!r}" for name, has in options.items() if has != found.fixed[name]]
    if not differing and not found.decays(model.config):
        differing = ["other decays"]
    if differing:
        raise MismatchError(
            f"model must be one that {found.package} computes, but has {', '.join(differing[:4])}; choose another "
            "format."
        )
    tensors = to_theirs(found.key_map, model.state_dict(), found.sizes(model.config), found.derived(model.config))
    prefix, head = found.prefixes[0], "lm_head.weight"
    return {name if name == head else prefix + name: tensor for name, tensor in tensors.items()}
