"""What was learned around a model of Hugging Face, on disk: a memory, and an adapter's weights if there are any."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from retentive.checkpoints.manifest import config_digest
from retentive.checkpoints.tensor_file import digest, listed, open_tensors, write_tensors
from retentive.errors import DamagedFileError, MismatchError
from retentive.files import read_json, write_atomically
from retentive.huggingface.recurrent_memory.backbone_settings import differences, settings_of
from retentive.huggingface.recurrent_memory.config import HuggingFaceMemoryConfig
from retentive.huggingface.recurrent_memory.model import HuggingFaceRecurrentMemory
from retentive.models.fingerprint import fingerprint_of

TENSORS_FILE = "memory.safetensors"
SETTINGS_FILE = "memory.json"
FORMAT = "retentive.huggingface_memory"
FORMAT_VERSION = 2
_READ_VERSIONS = (1, FORMAT_VERSION)
"""Version 1 knew no associative memory."""
_LEARNED = ("memory.", "associations.")
_LORA = "lora."
_WRAPPERS = ("base_layer", "original_module", "token_adapter")
"""Names under which peft keeps what it has put an adapter around."""


def save_memory(model: HuggingFaceRecurrentMemory, folder: Path | str) -> None:
    """Write what was learned around a frozen model: the memory, and LoRA's weights if there are any.

    Raises:
        ValueError: If the model itself learns; its weights are then to be saved with ``save_pretrained`` and frozen. If
            its adapter is disabled, or it has several that act.
        OSError: If the disk is full.
    """
    folder = Path(folder)
    backbone: Any = model.backbone
    lora = _lora_weights(backbone)
    learning = [name for name, weight in _own_weights(backbone) if weight.requires_grad]
    if learning:
        raise ValueError(
            f"the backbone must be frozen for its memory to be saved alone, but {listed(learning)} learn; save it with "
            "backbone.save_pretrained(...), and call backbone.requires_grad_(False)."
        )
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: weight for name, weight in model.state_dict().items() if name.startswith(_LEARNED)}
    tensors.update({f"{_LORA}{name}": weight for name, weight in lora.items()})
    write_tensors(folder / TENSORS_FILE, tensors, {"format": "pt"})
    if lora:
        backbone.peft_config[_adapter_name(backbone)].save_pretrained(str(folder))
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "memory": asdict(model.config),
        "has_lora": bool(lora),
        "backbone": _backbone_facts(backbone),
        "backbone_config": settings_of(backbone.config),
        "tensors_sha256": digest(tensors),
    }
    content["sha256"] = config_digest(content)
    write_atomically(folder / SETTINGS_FILE, (json.dumps(content, indent=2) + "\n").encode())


def load_memory(backbone: nn.Module, folder: Path | str) -> HuggingFaceRecurrentMemory:
    """Put a saved memory (and LoRA) around the model that it was trained around; in eval mode.

    Args:
        backbone: That model, as it was before LoRA.
        folder: What `save_memory` wrote.

    Raises:
        FileNotFoundError: If there is no saved memory.
        DamagedFileError: If a file is damaged.
        MismatchError: If the model is another one.
    """
    folder = Path(folder)
    path = folder / SETTINGS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} must be the folder of a saved memory, but there is no {path}.")
    try:
        content = read_json(path, cure="copy it again")
        version, said = (content["format"], content["format_version"]), content["backbone"]
        if version not in [(FORMAT, known) for known in _READ_VERSIONS]:
            raise MismatchError(
                f"{path} has the format {version}, but this retentive reads {FORMAT!r} of versions {_READ_VERSIONS}."
            )
        config = HuggingFaceMemoryConfig(**content["memory"])
    except (ValueError, LookupError, TypeError) as error:
        raise DamagedFileError(f"{path} is not what save_memory writes ({error!r}); copy it again.") from error
    known = content.pop("sha256", None)  # folders of earlier versions have none
    if known not in (None, config_digest(content)):
        raise DamagedFileError(f"{path} says something else than was saved (its SHA-256 differs); copy it again.")
    _check_backbone(cast("Any", backbone), said, content.get("backbone_config", {}))  # which earlier versions lack
    with open_tensors(folder / TENSORS_FILE) as reader:
        tensors = {name: reader.read(name) for name in reader.names}
    if content.get("tensors_sha256") not in (None, digest(tensors)):
        raise DamagedFileError(
            f"{folder / TENSORS_FILE} holds other values than were saved (its SHA-256 differs); copy it again."
        )
    if content["has_lora"]:
        lora = {name.removeprefix(_LORA): tensor for name, tensor in tensors.items() if name.startswith(_LORA)}
        backbone = _with_lora(backbone, folder, lora)
    backbone.requires_grad_(False)
    model = HuggingFaceRecurrentMemory(backbone, config)
    learned = {name: tensor for name, tensor in tensors.items() if name.startswith(_LEARNED)}
    expected = {name for name in model.state_dict() if name.startswith(_LEARNED)}
    if learned.keys() != expected:
        raise DamagedFileError(
            f"{folder / TENSORS_FILE} must hold {listed(expected)}, but holds {listed(learned)}; copy it again."
        )
    model.load_state_dict(learned, strict=False)
    return model.eval()


def _check_backbone(backbone: Any, said: dict[str, Any], settings: dict[str, Any]) -> None:
    """Check that a model is the one that a memory was trained around."""
    facts = _backbone_facts(backbone)
    if "weights" not in said:
        facts.pop("weights")  # folders of earlier versions have no fingerprint
    if facts != said:
        raise MismatchError(
            f"the backbone must be the model that the memory was trained around, in the same dtype, {said}, but is "
            f"{facts}; load that one."
        )
    if differing := differences(settings, settings_of(backbone.config)):
        raise MismatchError(
            "the backbone must be the model that the memory was trained around, but its config says something else "
            f"({differing}); load that one."
        )


def _with_lora(backbone: nn.Module, folder: Path, lora: dict[str, Tensor]) -> nn.Module:
    """The model with a saved adapter around it."""
    try:
        from peft import PeftConfig, get_peft_model, set_peft_model_state_dict
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{folder} holds LoRA weights, for which peft is needed, which is not installed: "
            "pip install 'retentive[hf]'."
        ) from error
    around: Any = get_peft_model(cast("Any", backbone), PeftConfig.from_pretrained(str(folder)))
    lost = set_peft_model_state_dict(around, lora).unexpected_keys
    if lost:
        raise MismatchError(f"{folder} holds LoRA weights that the model has no place for ({listed(lost)}).")
    return around


def _lora_weights(backbone: Any) -> dict[str, Tensor]:
    if not hasattr(backbone, "peft_config"):
        return {}
    from peft import get_peft_model_state_dict

    found = get_peft_model_state_dict(backbone, adapter_name=_adapter_name(backbone))
    return {name: weight.contiguous() for name, weight in found.items()}


def _adapter_name(backbone: Any) -> str:
    """The name of the adapter that acts.

    Raises:
        ValueError: If more than one acts, or none does because adapters are disabled.
    """
    if any(getattr(part, "disable_adapters", False) is True for part in backbone.modules()):
        raise ValueError(
            "adapters of the backbone must be enabled for its memory to be saved, for they act when it is loaded, but "
            "are disabled; call backbone.base_model.enable_adapter_layers(), or put the memory around the model "
            "without them (backbone.unload())."
        )
    names: list[str] = list(backbone.base_model.active_adapters)
    if len(names) != 1:
        raise ValueError(
            f"one adapter of the backbone must be active for its memory to be saved, but {names} are; choose one with "
            "backbone.set_adapter(name)."
        )
    return names[0]


def _backbone_facts(backbone: Any) -> dict[str, Any]:
    """What tells one model from another; an adapter's own parameters do not count."""
    table = backbone.get_input_embeddings().weight
    weights = dict(_own_weights(backbone))
    return {
        "model_type": backbone.config.model_type,
        "embeddings": list(table.shape),
        "parameters": sum(weight.numel() for weight in weights.values()),
        "weights": fingerprint_of(weights),
    }


def _own_weights(backbone: Any) -> Iterator[tuple[str, Tensor]]:
    """The parameters of the model itself, by the names that they have without an adapter around them."""
    bare = backbone.get_base_model() if hasattr(backbone, "peft_config") else backbone
    learned = tuple(
        f"{path}.{part}."
        for path, module in bare.named_modules()
        for part in (*getattr(module, "adapter_layer_names", ()), *getattr(module, "other_param_names", ()))
    )
    for name, weight in bare.named_parameters():
        if not f"{name}.".startswith(learned):
            yield ".".join(part for part in name.split(".") if part not in _WRAPPERS), weight
