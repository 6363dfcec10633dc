"""States as bytes and back: of this model, whole, finite, and such that the model can go on from them."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from retentive.checkpoints import GenerationState, load_state, read_state_metadata, save_state
from retentive.errors import DamagedFileError, DivergedError, MismatchError, RetentiveError
from retentive.generation import Request, RequestBatch
from retentive.generation.chat.sessions import KEY as CONVERSATION
from retentive.models.base import DecoderModel
from retentive.serving.errors import ApiError
from retentive.serving.wire.common import can_be_written
from retentive.state import named_tensors

TURN = "retentive_turn"
"""Name of a state's metadata that holds what the server needs to go on with a conversation."""
_LONGEST_TURN = 1 << 20
_LONGEST_TEXT = 1 << 48
_LARGEST = 1e12
_TRIED = 3
"""Tokens that are tried after the state of a stranger."""


def to_bytes(state: GenerationState, model: DecoderModel, turn: Mapping[str, Any]) -> bytes:
    """The file that `save_state` writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.safetensors"
        save_state(state, path, model, metadata={TURN: json.dumps(turn)})
        return path.read_bytes()


def from_bytes(content: bytes, model: DecoderModel) -> GenerationState:
    """A state that this server stored.

    Raises:
        MismatchError: If it is of other weights.
        DamagedFileError: If it is no state.
        DivergedError: If it has NaN.
    """
    return _read(content, model)[0]


def from_stranger(content: bytes, model: DecoderModel) -> tuple[GenerationState, dict[str, Any]]:
    """A state from a client, with what is said in it of its last turn: every way to be wrong is tried first.

    Raises:
        ApiError: 400, if the model cannot go on from it.
    """
    try:
        state, metadata = _read(content, model)
        _check_goes_on(state, model)
    except (
        RetentiveError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
        RuntimeError,
        OSError,
    ) as error:
        # Messages name a temporary file, which tells the client nothing.
        words = str(error) if isinstance(error, RetentiveError) else "it is no state that `save_state` wrote"
        message = words.replace(_path_in(words), "the file")
        raise ApiError(400, f"the state is refused: {message}", code="invalid_state") from error
    return state, _turn(metadata)


def _read(content: bytes, model: DecoderModel) -> tuple[GenerationState, dict[str, str]]:
    with tempfile.TemporaryDirectory(prefix="retentive-state-") as folder:
        path = Path(folder) / "state.safetensors"
        path.write_bytes(content)
        state, metadata = load_state(path, model), read_state_metadata(path)
    if not isinstance(state, GenerationState):
        raise MismatchError("it must be of a generation, which has a token that is not read yet, but is a model's.")
    if state.batch_size != 1:
        raise MismatchError(f"it must have one row, but has {state.batch_size}; save state.select([row]).")
    return state, metadata


def _check_goes_on(state: GenerationState, model: DecoderModel) -> None:
    """Read the token that waits: the state's numbers must be those of a text, and give finite logits."""
    vocab = model.vocab_size
    unread = int(state.unread[0])
    if not 0 <= unread < vocab:
        raise DamagedFileError(f"its unread token must be from 0 to {vocab - 1}, but is {unread}.")
    limits = {name: _LONGEST_TEXT for name in named_tensors(state) if name.endswith("position")}
    if state.counts is not None:
        limits["counts.said"] = int(state.model.position[0]) + 1
    for name, most in limits.items():
        numbers = named_tensors(state)[name]
        if int(numbers.min()) < 0 or int(numbers.max()) > most:
            found = int(numbers.min()) if int(numbers.min()) < 0 else int(numbers.max())
            raise DamagedFileError(f"its {name} must be from 0 to {most} tokens, but has {found}.")
    _check_numbers(state, model)
    model.check_state(state.model)
    room = _TRIED if model.longest_text is None else model.longest_text - int(state.model.position[0])
    with torch.inference_mode():
        output = model(state.unread[:, None].repeat(1, max(1, min(room, 2))), state.model, logits_to_keep=1)
    if output.logits is None or not bool(output.logits.isfinite().all()):
        raise DivergedError("the model's logits after it are NaN or infinite.")
    # As it will be gone on with: beside the text of somebody else, which must not end with it.
    batch = RequestBatch(model)
    count = max(1, min(room, _TRIED))
    batch.admit(Request(prompt=[unread], max_new_tokens=count))
    batch.admit(Request(state=state, max_new_tokens=count))
    while batch.is_busy:
        batch.step()


def _check_numbers(state: GenerationState, model: DecoderModel) -> None:
    """Check that floating-point numbers are of the model's dtypes, and so small that their squares are finite."""
    expected = named_tensors(model.initial_state(1))
    for name, tensor in named_tensors(state.model).items():
        if not tensor.is_floating_point():
            continue
        wanted = expected[name].dtype if name in expected else tensor.dtype
        if tensor.dtype != wanted:
            raise DamagedFileError(f"its {name} must be in {wanted}, but is in {tensor.dtype}.")
        if tensor.numel() and float(tensor.abs().max()) > _LARGEST:
            raise DamagedFileError(f"its {name} must be numbers up to {_LARGEST:g}, but has larger ones.")


def _turn(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What a file says of its last turn, where it is in a form in which this library writes it; else nothing."""
    for name, read in ((TURN, _of_server), (CONVERSATION, _of_chat)):
        said = metadata.get(name, "")
        if not said or len(said) > _LONGEST_TURN:
            continue
        try:
            known = read(json.loads(said))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            continue
        if can_be_written(known):
            return known
    return {}


def _of_server(turn: Any) -> dict[str, Any]:
    """A turn that `to_bytes` wrote."""
    return {"input": _messages(turn["input"]), "output": str(turn["output"]), "ended": bool(turn["ended"])}


def _of_chat(said: Any) -> dict[str, Any]:
    """The last turn of a conversation of ``retentive chat``."""
    *before, asked, answer = _messages(said["messages"])
    if answer["role"] != "assistant":
        raise ValueError("its last message is no answer")
    system = [message for message in before[:1] if message["role"] == "system"]
    return {"input": [*system, asked], "output": answer["content"], "ended": bool(said["ended"])}


def _messages(given: Any) -> list[dict[str, str]]:
    return [{"role": str(message["role"])[:32], "content": str(message["content"])} for message in given]


def _path_in(message: str) -> str:
    """The temporary file's name in a message; something that is not in it, where there is none."""
    words = [word for word in message.split() if "retentive-state-" in word]
    return words[0].rstrip(":;,") if words else "\0"
