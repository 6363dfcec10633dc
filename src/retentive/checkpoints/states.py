"""States in files, to go on later, in another process or on another machine.

The file names the model that the state belongs to, and no other model loads it.
"""

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from retentive.checkpoints.devices import usable_device
from retentive.checkpoints.tensor_file import TensorReader, digest, listed, open_tensors, write_tensors
from retentive.config_types import check_kind
from retentive.errors import DamagedFileError, DivergedError, MismatchError
from retentive.files import parse_json
from retentive.models.calls import check_is_model
from retentive.models.fingerprint import weights_fingerprint
from retentive.models.protocol import LanguageModel, as_module
from retentive.models.registry import config_to_dict, described_now
from retentive.models.state_values import check_state_values
from retentive.state import ModelState, RecurrentState, named_tensors, with_tensors

LIBRARY_VERSION = version("retentive")
FORMAT = "retentive.state"
FORMAT_VERSION = 1
FORMAT_VERSION_WITH_COUNTS = 2
_CURE = "save the state again"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCounts(RecurrentState):
    """Which tokens a text has so far, for penalties on those that come again.

    Attributes:
        read: Whether a token stands in a prompt.
        said: How often a token was chosen.
    """

    read: Bool[Tensor, "batch vocab"]
    said: Int[Tensor, "batch vocab"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationState(RecurrentState):
    """Where a generation stopped: a model's state, and the token of each row that was drawn but not read yet.

    Attributes:
        model: The model's state after the whole text but its last token.
        unread: The last token of each row.
        counts: Which tokens the text has, since the first call with a penalty; None before it.
    """

    model: ModelState
    unread: Int[Tensor, "batch"]
    counts: TokenCounts | None = None


@dataclass(frozen=True, slots=True)
class StateOrigin:
    """The model that made a state, as its file names it.

    Attributes:
        config: As JSON.
        weights: `weights_fingerprint`.
    """

    config: str
    weights: str

    @classmethod
    def of(cls, model: LanguageModel) -> "StateOrigin":
        """The model as it is now."""
        return cls(json.dumps(config_to_dict(model.config)), weights_fingerprint(as_module(model)))


def no_counts(rows: int, vocab_size: int, device: torch.device) -> TokenCounts:
    """The counts of a text without tokens."""
    return TokenCounts(
        read=torch.zeros(rows, vocab_size, dtype=torch.bool, device=device),
        said=torch.zeros(rows, vocab_size, dtype=torch.int32, device=device),
    )


def save_state(
    state: ModelState | GenerationState,
    path: Path | str,
    model: LanguageModel,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a state into a safetensors file; a file that is there already is replaced. Every bit is kept.

    Args:
        state: Of ``model``'s output, or of a generation.
        path: The file.
        model: The model that made the state; no other one can load it.
        metadata: Strings of yours, stored in the file; `read_state_metadata` reads them.

    Raises:
        TypeError: If an argument is of another class, or stands in another's place.
        MismatchError: If the state is not one of this model's.
        DivergedError: If it has NaN.
        OSError: If the disk is full or the file cannot be written; an earlier file is left as it was.
    """
    check_kind("state", state, RecurrentState, cure="save_state(output.state, path, model)")
    check_kind("path", path, str, Path, cure="save_state(state, path, model)")
    check_is_model(model)
    check_kind("metadata", metadata, Mapping, type(None), cure="strings by name")
    check_state_values(state, thorough=True)
    kind = "generation" if isinstance(state, GenerationState) else "model"
    has_counts = isinstance(state, GenerationState) and state.counts is not None
    fault = _fault(named_tensors(state), _template(model, kind, state.batch_size, has_counts=has_counts))
    if fault:
        raise MismatchError(f"state must be one of the given model's, but {fault}.")
    model.check_state(state.model if isinstance(state, GenerationState) else state)
    write_state(state, Path(path), StateOrigin.of(model), metadata or {})


def write_state(
    state: ModelState | GenerationState, path: Path, origin: StateOrigin, metadata: Mapping[str, str]
) -> None:
    """`save_state` of a state that was checked, with what its model was when it made the state.

    Raises:
        OSError: If the disk is full or the file cannot be written; an earlier file is left as it was.
    """
    # Layers share one tensor of positions, and a selected state may be a view; a file holds each tensor apart.
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in named_tensors(state).items()}
    has_counts = isinstance(state, GenerationState) and state.counts is not None
    about = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION_WITH_COUNTS if has_counts else FORMAT_VERSION),
        "library_version": LIBRARY_VERSION,
        "kind": "generation" if isinstance(state, GenerationState) else "model",
        "rows": str(state.batch_size),
        "config": origin.config,
        "weights": origin.weights,
        "sha256": digest(tensors),
        "metadata": json.dumps(dict(metadata)),
    }
    write_tensors(path, tensors, about)


def load_state(
    path: Path | str, model: LanguageModel, device: torch.device | str | None = None
) -> ModelState | GenerationState:
    """Read the state that `save_state` wrote, bit for bit.

    Args:
        path: The file.
        model: Must have the config and the weights of the model that made the state.
        device: Where the state goes; None is the model's device.

    Raises:
        TypeError: If an argument is of another class, or stands in another's place.
        FileNotFoundError: If there is no such file.
        DamagedFileError: If it is cut off, altered, or no state.
        MismatchError: If another model or format made it; the message says what differs.
        DivergedError: If it has NaN.
    """
    check_kind("path", path, str, Path, cure="load_state(path, model)")
    check_kind("device", device, str, torch.device, type(None), cure="such as 'cpu' or 'cuda'")
    check_is_model(model)
    path, device = Path(path), usable_device(device)
    with _open_state(path) as reader:
        about = reader.metadata
        _check_model(path, about, model)
        tensors = {name: reader.read(name) for name in reader.names}
    if digest(tensors) != about["sha256"]:
        raise DamagedFileError(f"{path} holds other values than were saved (its SHA-256 differs); copy it again.")
    has_counts = about["format_version"] == str(FORMAT_VERSION_WITH_COUNTS)
    template = _template(model, about["kind"], int(about["rows"]), has_counts=has_counts)
    fault = _fault(tensors, template)
    if fault:
        raise DamagedFileError(f"{path} holds no state of its model: {fault}; save it again.")
    state = with_tensors(template, tensors)
    try:
        check_state_values(state)
    except MismatchError as error:
        raise DamagedFileError(f"{path} holds no state of its model: {error}") from error
    except DivergedError as error:
        raise DivergedError(f"{path} cannot be gone on from: {error}") from error
    return state.to(next(model.parameters()).device if device is None else device)


def read_state_metadata(path: Path | str) -> dict[str, str]:
    """Read the ``metadata`` that was given to `save_state`.

    Raises:
        FileNotFoundError: If there is no such file.
        DamagedFileError: If it is cut off, or no state.
    """
    with _open_state(Path(path)) as reader:
        try:
            said: Any = json.loads(reader.metadata["metadata"])
        except ValueError:
            said = None
    if not isinstance(said, dict) or not all(isinstance(one, str) for one in cast("dict[str, Any]", said).values()):
        raise DamagedFileError(f"{path} has metadata in its header that is no strings by name; copy it again.")
    return cast("dict[str, str]", said)


def read_state_origin(path: Path) -> StateOrigin:
    """Read which model made a state.

    Raises:
        FileNotFoundError: If there is no such file.
        DamagedFileError: If it is cut off, or no state.
    """
    with _open_state(path) as reader:
        return StateOrigin(reader.metadata["config"], reader.metadata["weights"])


@contextmanager
def _open_state(path: Path) -> Generator[TensorReader]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no state at {path}.")
    with open_tensors(path) as reader:
        if reader.metadata.get("format") != FORMAT:
            raise DamagedFileError(f"{path} is no file that `save_state` wrote: its format is not {FORMAT!r}.")
        written = reader.metadata.get("format_version")
        if written not in (str(FORMAT_VERSION), str(FORMAT_VERSION_WITH_COUNTS)):
            raise MismatchError(
                f"{path} has the format version {written}, but this version of retentive ({LIBRARY_VERSION}) reads "
                f"versions {FORMAT_VERSION} and {FORMAT_VERSION_WITH_COUNTS} only; it was written by retentive "
                f"{reader.metadata.get('library_version')}: install that one."
            )
        lacking = {"kind", "rows", "config", "weights", "sha256", "metadata"} - reader.metadata.keys()
        if lacking:
            raise DamagedFileError(f"{path} lacks {listed(lacking)} in its header; save the state again.")
        _check_header(reader.metadata, path)
        yield reader


def _check_header(about: Mapping[str, str], path: Path) -> None:
    """Check that what the header holds is of the kinds that `write_state` writes."""
    for part in ("config", "metadata"):
        content = parse_json(about[part].encode(), Path(f"{path} ({part} in its header)"), cure=_CURE)
        if part == "metadata" and not all(isinstance(value, str) for value in content.values()):
            raise DamagedFileError(f"{path} must hold strings as metadata in its header, but has others: {_CURE}.")
    rows = int(about["rows"]) if about["rows"].isdecimal() else 0  # of no rows, the number of each tensor's is open
    if about["kind"] not in ("model", "generation") or not rows:
        raise DamagedFileError(
            f"{path} must hold the state of a model or of a generation, of some rows, but its header says "
            f"kind={about['kind']!r}, rows={about['rows']!r}: {_CURE}."
        )


def _check_model(path: Path, about: Mapping[str, str], model: LanguageModel) -> None:
    """Check that a state belongs to a model of this config and these weights."""
    # Through JSON and back, as the config in the file: JSON does not tell tuples from lists.
    ours = _flattened(json.loads(json.dumps(config_to_dict(model.config))))
    theirs = _flattened(
        _with_later_options(model.config, described_now(_with_flat_memory(json.loads(about["config"]))))
    )
    differing = [
        f"{name} is {theirs.get(name)!r} there and {ours.get(name)!r} here"
        for name in (*ours, *(name for name in theirs if name not in ours))
        if theirs.get(name) != ours.get(name)
    ]
    reason = None
    if differing:
        reason = "its config differs: " + ", ".join(differing)
    elif about["weights"] != weights_fingerprint(as_module(model)):
        reason = "its config is the same, but its weights (or their dtype) differ"
    if reason:
        raise MismatchError(f"{path} is the state of another model: {reason}. Load it with the model that made it.")


def _with_flat_memory(config: dict[str, Any]) -> dict[str, Any]:
    """The config in a file as it is written now: of a memory around a Hugging Face model it was nested before."""
    nested: object = config.get("memory")
    if config.get("family") == "huggingface_memory" and isinstance(nested, dict):
        return {"family": config["family"], **cast("dict[str, Any]", nested)}
    return config


def _with_later_options(ours: Any, theirs: dict[str, Any]) -> dict[str, Any]:
    """The config in a file with the defaults of options that came since, for a config that no registry can read."""
    if theirs.get("family") != ours.family:
        return theirs
    later = {field.name: field.default for field in fields(ours) if field.default is not MISSING}
    return {**later, **theirs}


def _flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """All options by their path, as in ``backbone.num_heads``."""
    options: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            options |= _flattened(cast("Mapping[str, Any]", value), f"{prefix}{name}.")
        else:
            options[prefix + name] = value
    return options


def _template(model: LanguageModel, kind: str, rows: int, *, has_counts: bool) -> ModelState | GenerationState:
    """The structure of a state, without memory for its values."""
    meta = torch.device("meta")
    template = model.initial_state(rows, meta)
    if kind == "model":
        return template
    counts = no_counts(rows, model.vocab_size, meta) if has_counts else None
    return GenerationState(model=template, unread=torch.zeros(rows, dtype=torch.long, device=meta), counts=counts)


def _fault(tensors: Mapping[str, Tensor], template: RecurrentState) -> str | None:
    """Why tensors are no state of the template's structure; None if they are."""
    expected = named_tensors(template)
    missing = expected.keys() - tensors.keys()
    if missing:
        return f"it lacks {listed(missing)}"
    extra = tensors.keys() - named_tensors(with_tensors(template, dict(tensors))).keys()
    if extra:
        return f"it has {listed(extra)}, which the model does not carry"
    for name, tensor in expected.items():
        # A dimension that is empty in a new state grows with the text.
        pattern, shape = tuple(tensor.shape), tuple(tensors[name].shape)
        fits = len(pattern) == len(shape) and all(b in (0, a) for a, b in zip(shape, pattern, strict=True))
        if not fits:
            shown = "(" + ", ".join("any" if size == 0 else str(size) for size in pattern) + ")"
            return f"its {name} has the shape {shape} and should have {shown}"
    return None
