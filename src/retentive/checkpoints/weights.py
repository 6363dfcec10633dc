"""A model in a folder: ``config.json``, its weights as safetensors, and its tokenizer's files.

``config.json`` is the manifest. It names the weights file, whose name contains the hash of its content, and is renamed
into place last: if the process is killed, the folder holds either the earlier model or the new one.

The same folder is one of transformers: ``config.json`` also has the keys that it reads, and so it finds the weights in
the same step; see `retentive.huggingface`.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from shutil import rmtree
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from retentive.checkpoints.devices import usable_device
from retentive.checkpoints.freed_memory import give_back_freed_memory
from retentive.checkpoints.frozen import freeze, frozen_parts
from retentive.checkpoints.manifest import (
    CONFIG_FILE,
    FORMAT,
    FORMAT_VERSION,
    LIBRARY_VERSION,
    ModelManifest,
    config_digest,
    describe_quantisation,
    read_manifest,
)
from retentive.checkpoints.model_card import save_model_card
from retentive.checkpoints.tensor_file import (
    TensorDigest,
    digest,
    listed,
    open_tensors,
    shapes_of,
    unwritten,
    write_tensors,
)
from retentive.checkpoints.transformers_files import transformers_settings, write_code_file
from retentive.config_types import check_kind
from retentive.errors import DamagedFileError, MismatchError
from retentive.files import fill_atomically, read_json, sync
from retentive.layers.quantised import QuantisationConfig
from retentive.models.base import DecoderModel
from retentive.models.protocol import FamilyConfig, ModelConfig
from retentive.models.quantise import computes_in, quantise
from retentive.models.registry import build, config_to_dict
from retentive.text.loading import load_tokenizer
from retentive.text.tokenizer import Tokenizer, begin_of, pad_of

RUN_FORMAT = "retentive training run"
"""Of the ``config.json`` in the folder of a training run."""


@runtime_checkable
class SavableTokenizer(Protocol):
    """What `save_model` needs of a tokenizer."""

    @property
    def end_of_text(self) -> int:
        """The id that begins and ends every document."""
        ...

    def save(self, folder: Path) -> None:
        """Write its files into a folder."""
        ...

    def fingerprint(self) -> str:
        """A hash over everything that decides ids."""
        ...


def save_model(
    model: DecoderModel,
    folder: Path | str,
    tokenizer: SavableTokenizer | None = None,
    *,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a model into a folder, where `load_model` finds it; a model that is there already is replaced.

    Beside it stands its card, ``README.md``; see `save_model_card`. Every tensor keeps its dtype; weights that are used
    twice (tied embeddings) are stored once. Where some parameters learn and others do not (RETROfit), the folder says
    which do not, and `load_model` freezes them again.

    Args:
        model: The model, not wrapped (of ``DistributedDataParallel``, pass ``.module``).
        folder: Made if it does not exist. Other files in it are left alone.
        tokenizer: Saved beside the weights; ``load_tokenizer(folder)`` reads it back.
        weights: Takes the place of ``model.state_dict()`` where its tensors are spread over processes, or are made one
            at a time (`LateTensors`).

    Raises:
        TypeError: If an argument is of another class, or the two stand in each other's place.
        MismatchError: If the weights are not what the model's config describes, or the folder holds a training run or
            another library's model.
        OSError: If the disk is full or the folder cannot be written; what was there before stays as it was.
    """
    _check_arguments(model, folder, tokenizer)
    folder = Path(folder)
    _check_replaced(folder / CONFIG_FILE)
    tensors = model.state_dict() if weights is None else weights
    _check_tensors(
        shapes_of(tensors),
        _skeleton(model.config, model.quantisation),
        "the weights to save",
        "save the model itself and not a wrapper of it",
    )
    whole = digest(tensors)
    name = f"weights-{whole[:16]}.safetensors"
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    earlier = {path.name for path in folder.glob("weights-*.safetensors")}
    try:
        write_tensors(folder / name, tensors, {"format": "pt"})
        if tokenizer is not None:
            _save_tokenizer(tokenizer, folder)
        write_code_file(folder)
        _write_config(folder, model, name, whole, tokenizer)
    except BaseException:
        if name not in earlier:
            (folder / name).unlink(missing_ok=True)
        if is_new and not any(folder.iterdir()):
            folder.rmdir()
        raise
    save_model_card(folder)
    if is_new:
        sync(folder.parent)
    for leftover in (*(folder / other for other in earlier - {name}), *folder.glob(".weights-*.safetensors.tmp")):
        leftover.unlink(missing_ok=True)


def _check_arguments(model: object, folder: object, tokenizer: object) -> None:
    """Check that the model, the folder and the tokenizer were not given in each other's place."""
    if isinstance(model, str | Path):
        raise TypeError(f"model comes first, then its folder, but model is {str(model)!r}: save_model(model, folder).")
    check_kind("folder", folder, str, Path, cure="save_model(model, folder, tokenizer)")
    check_kind("tokenizer", tokenizer, SavableTokenizer, type(None), cure="load_tokenizer(path) reads one")
    if not isinstance(getattr(model, "config", None), ModelConfig):
        raise TypeError(
            f"model must be a model of retentive, but is a {type(model).__name__}; one of transformers is written by "
            "its save_pretrained, and `retentive convert` makes a folder of it that load_model reads."
        )


def _check_replaced(path: Path) -> None:
    """Check that no ``config.json`` of something else is replaced; one that cannot be read is."""
    try:
        content = read_json(path, cure="")
    except (FileNotFoundError, DamagedFileError):
        return
    if content.get("format") == RUN_FORMAT or content.get("model_type", "retentive") != "retentive":
        raise MismatchError(
            f"folder must be a new one or that of a model of retentive, but {path} is of a training run or of another "
            "library's model, which would be lost; choose another folder."
        )


def load_model(
    folder: Path | str, device: torch.device | str | int | None = None, dtype: torch.dtype | None = None
) -> DecoderModel:
    """Read the model that `save_model` wrote, in eval mode; parameters that were frozen beside others that learn are.

    The model is made without memory first and takes the tensors as they are read, so that no weight is held twice.

    Args:
        folder: The model's folder.
        device: Where the model goes; None is the CPU.
        dtype: Floating-point weights are converted to it; None keeps what was stored.

    Raises:
        FileNotFoundError: If the folder holds no model.
        DamagedFileError: If a file is missing, cut off or altered; the message names it.
        MismatchError: If the config and the weights do not fit, or the format, family or an option is not known here.
        ValueError: If torch does not find the device, or ``dtype`` is no floating-point type.
    """
    check_kind("folder", folder, str, Path, cure="the path of what save_model wrote")
    check_kind("device", device, str, int, torch.device, type(None), cure="such as 'cpu' or 'cuda'")
    check_kind("dtype", dtype, torch.dtype, type(None), cure="such as torch.bfloat16")
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating-point type, such as torch.bfloat16, but is {dtype}.")
    device = usable_device(device)
    model, stored = read_one_by_one(Path(folder), dtype)
    model.load_state_dict({name: tensor.to(device=device) for name, tensor in stored}, assign=True)
    if model.quantisation is not None:  # packing leaves holes of three times the weights
        give_back_freed_memory()
    return model.eval()


def load_own_tokenizer(folder: Path | str) -> Tokenizer:
    """Load the tokenizer in a model's folder, which must be the one that the model was saved with.

    Raises:
        FileNotFoundError: If there is no model, or no tokenizer.
        DamagedFileError: If it is another tokenizer, or its files are damaged.
    """
    tokenizer, saved = load_tokenizer(folder), read_manifest(folder).tokenizer_fingerprint
    if saved is not None and saved != tokenizer.fingerprint():
        raise DamagedFileError(
            f"{folder} holds another tokenizer than its model was saved with (its SHA-256 differs); copy the folder "
            "again, or save the model with this tokenizer: save_model(model, folder, tokenizer)."
        )
    return tokenizer


def read_one_by_one(
    folder: Path, dtype: torch.dtype | None = None
) -> tuple[DecoderModel, Iterator[tuple[str, Tensor]]]:
    """Read what `load_model` does, as a model without memory and its tensors one after another, for who keeps parts.

    Args:
        folder: The model's folder.
        dtype: Floating-point weights are converted to it; None keeps what was stored.

    Raises:
        FileNotFoundError: If the folder holds no model.
        DamagedFileError: If a file is damaged; of altered values this is told after the last tensor.
        MismatchError: If the config and the weights do not fit.
    """
    manifest = read_manifest(folder)
    try:
        model = _skeleton(manifest.config, manifest.quantisation)
    except (TypeError, RuntimeError, OverflowError) as error:  # sizes that no tensor can have
        raise MismatchError(f"{folder / CONFIG_FILE} describes no model that can be made here: {error}") from error
    if manifest.quantisation is not None:
        computes_in(model, manifest.computed_in if dtype is None else dtype)
    freeze(model, manifest.frozen, folder)
    return model, _stored(folder, manifest, model, dtype)


def _stored(
    folder: Path, manifest: ModelManifest, model: DecoderModel, dtype: torch.dtype | None
) -> Iterator[tuple[str, Tensor]]:
    path, whole = folder / manifest.weights_file, TensorDigest()
    with open_tensors(path) as reader:
        cure = f"was {folder / CONFIG_FILE} changed by hand, or copied from another model? Copy the folder again"
        _check_tensors(reader.shapes(), model, str(path), cure)
        if not manifest.is_intact:
            raise DamagedFileError(
                f"{folder / CONFIG_FILE} has another config than was saved (its SHA-256 differs); copy "
                "the folder again. To use the weights with other options, build that model and load_state_dict them."
            )
        for name in sorted(reader.names):
            tensor = reader.read(name)
            whole.add(name, tensor)
            yield name, tensor.to(dtype=dtype if _is_converted(name, tensor) else None)
    if whole.hexdigest() != manifest.weights_digest:
        raise DamagedFileError(
            f"{path} holds other values than were saved (its SHA-256 differs); copy it again, or go back to an earlier "
            "checkpoint."
        )


def _is_converted(name: str, tensor: Tensor) -> bool:
    """Whether a tensor takes another dtype: scales of 4 bits are of the one for which their kernel is fast."""
    return tensor.is_floating_point() and not name.endswith("scales_and_zeros")


def _skeleton(config: FamilyConfig, quantisation: QuantisationConfig | None = None) -> DecoderModel:
    """The model without memory for its weights."""
    with torch.device("meta"):
        model = build(config)
        if quantisation is not None:
            quantise(model, quantisation)
    return model


def _check_tensors(shapes: Mapping[str, torch.Size], model: DecoderModel, source: str, cure: str) -> None:
    """Check that tensors are those that a model's config describes."""
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    missing, extra = expected.keys() - shapes.keys(), shapes.keys() - expected.keys()
    wrong = sorted(name for name in expected.keys() & shapes.keys() if expected[name] != shapes[name])
    faults: list[str] = []
    if missing:
        faults.append(f"{len(missing)} missing ({listed(missing)})")
    if extra:
        faults.append(f"{len(extra)} unknown ({listed(extra)})")
    if wrong:
        name = wrong[0]
        example = f"{name} is {tuple(shapes[name])} and should be {tuple(expected[name])}"
        faults.append(f"{len(wrong)} of another shape ({example})")
    if faults:
        raise MismatchError(
            f"{source} must be the tensors of the {model.config.family} in the config, but has "
            f"{', '.join(faults)}; {cure}."
        )


def _save_tokenizer(tokenizer: SavableTokenizer, folder: Path) -> None:
    """Let a tokenizer write its files into a temporary folder, then rename them into the model's folder."""
    apart = folder / ".tokenizer.tmp"
    rmtree(apart, ignore_errors=True)
    try:
        apart.mkdir()
        tokenizer.save(apart)
        for path in sorted(each for each in apart.rglob("*") if each.is_file()):
            place = folder / path.relative_to(apart)
            place.parent.mkdir(exist_ok=True)
            path.replace(place)
    finally:
        rmtree(apart, ignore_errors=True)


def _write_config(
    folder: Path, model: DecoderModel, weights_file: str, weights_digest: str, tokenizer: SavableTokenizer | None
) -> None:
    described = json.loads(json.dumps(config_to_dict(model.config)))
    rounded = model.quantisation
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "library_version": LIBRARY_VERSION,
        "config": described,
        "config_sha256": config_digest(described),
        "weights": {"file": weights_file, "sha256": weights_digest},
        **({} if rounded is None else {"quantisation": describe_quantisation(rounded, model.decoder.dtype)}),
        "tokenizer": None if tokenizer is None else tokenizer.fingerprint(),
        **({"frozen": found} if (found := frozen_parts(model)) else {}),
        **transformers_settings(weights_file, {} if tokenizer is None else _special_ids(tokenizer)),
    }
    text = json.dumps(content, indent=2) + "\n"
    path = folder / CONFIG_FILE
    try:
        fill_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"))
    except OSError as error:
        raise unwritten(path, error) from error


def _special_ids(tokenizer: SavableTokenizer) -> dict[str, int]:
    """Ids by transformers' names; tokenizers of our own begin and end a document with one token."""
    end = tokenizer.end_of_text
    return {
        "bos_token_id": begin_of(tokenizer),
        "eos_token_id": end,
        "pad_token_id": pad_of(tokenizer, end),
    }
