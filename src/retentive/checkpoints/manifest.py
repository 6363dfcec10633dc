"""The manifest of a saved model, ``config.json``: what the model is, and where its weights are."""

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from retentive.errors import DamagedFileError, MismatchError
from retentive.files import read_json
from retentive.layers.quantised import QuantisationConfig
from retentive.models.protocol import FamilyConfig
from retentive.models.registry import config_from_dict

LIBRARY_VERSION = version("retentive")
FORMAT = "retentive.model"
FORMAT_VERSION = 1
CONFIG_FILE = "config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelManifest:
    """What ``config.json`` says.

    Attributes:
        config: The model's config.
        weights_file: Name of the weights file in the folder.
        weights_digest: `TensorDigest` of all weights.
        tokenizer_fingerprint: Of the tokenizer that was saved with the model; None without one.
        library_version: Version of the library that wrote the folder.
        quantisation: How the weights were rounded; None where they are floats.
        computed_in: Dtype of what a quantised model computes.
        frozen: Parts of the model that are not trained, by their names in it.
        is_intact: Whether the config is the one that was saved, by its checksum; folders of earlier versions have none.
    """

    config: FamilyConfig
    weights_file: str
    weights_digest: str
    tokenizer_fingerprint: str | None
    library_version: str
    quantisation: QuantisationConfig | None = None
    computed_in: torch.dtype = torch.float32
    frozen: tuple[str, ...] = ()
    is_intact: bool = True


def config_digest(described: object) -> str:
    """SHA-256 of a config as JSON holds it, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path | str) -> ModelManifest:
    """Read ``config.json`` alone: what the model is, without its weights.

    Raises:
        FileNotFoundError: If the folder holds no model.
        DamagedFileError: If the file is not what `save_model` writes.
        MismatchError: If its format, family or an option is not known here.
    """
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        inside = f": give {Path(folder).parent}, its folder" if Path(folder).name == CONFIG_FILE else ""
        raise FileNotFoundError(f"{folder} must be the folder of a saved model, but there is no {path}{inside}.")
    content = read_json(path, cure="copy it again")
    if content.get("format") != FORMAT:
        found = "something else"
        if (path.parent / "model" / CONFIG_FILE).exists():
            found = f"that of a training run: give the folder of its model, {path.parent / 'model'}"
        elif "training" in content:
            found = "that of a training run that has no model yet: start its training again, to its end"
        elif "architectures" in content or "model_type" in content:
            found = f"of Hugging Face transformers: retentive convert {path.parent} DEST makes a model of ours of it"
        if content.get("model_type") == "retentive":
            found = (
                "written by transformers: load the folder with AutoModelForCausalLM.from_pretrained, after "
                "retentive.huggingface.register(), and save it with save_model(model.model, folder)"
            )
        raise MismatchError(f"{path} must have the format {FORMAT!r}, which `save_model` writes, but is {found}.")
    written = content.get("format_version")
    if written != FORMAT_VERSION:
        raise MismatchError(
            f"{path} has the format version {written}, but this version of retentive ({LIBRARY_VERSION}) reads version "
            f"{FORMAT_VERSION} only; it was written by retentive {content.get('library_version')}: install that one."
        )
    try:
        described, weights = content["config"], content["weights"]
        parts = (Path(weights["file"]).name, str(weights["sha256"]), content["tokenizer"], content["library_version"])
        frozen = tuple(map(str, content.get("frozen", ())))
    except (LookupError, TypeError) as error:
        raise DamagedFileError(
            f"{path} lacks a part of what `save_model` writes ({error!r}); copy it again."
        ) from error
    try:
        config = config_from_dict(described)
    except (MismatchError, ValueError, TypeError, OverflowError) as error:
        raise MismatchError(f"{path} describes no model that can be made here: {error}") from error
    quantisation, computed_in = _quantisation(content.get("quantisation"), path)
    return ModelManifest(
        quantisation=quantisation,
        computed_in=computed_in,
        config=config,
        weights_file=parts[0],
        weights_digest=parts[1],
        tokenizer_fingerprint=parts[2],
        library_version=parts[3],
        frozen=frozen,
        is_intact=content.get("config_sha256") in (None, config_digest(described)),
    )


def describe_quantisation(config: QuantisationConfig, computed_in: torch.dtype) -> dict[str, Any]:
    """What ``config.json`` says of rounded weights."""
    return {"bits": config.bits, "group_size": config.group_size, "dtype": str(computed_in).removeprefix("torch.")}


def _quantisation(said: Any, path: Path) -> tuple[QuantisationConfig | None, torch.dtype]:
    if said is None:
        return None, torch.float32
    try:
        kind = getattr(torch, said["dtype"])
        found = QuantisationConfig(bits=said["bits"], group_size=said["group_size"])
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise MismatchError(f"{path} describes weights that cannot be read here (quantisation: {error}).") from error
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        raise MismatchError(f"{path} must compute a quantised model in floats, but says {said['dtype']!r}.")
    return found, kind
