"""The weights that a run begins with (new, of a saved model, or of one around a trained model), and ends with."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from retentive.checkpoints.frozen import freeze
from retentive.checkpoints.manifest import read_manifest
from retentive.checkpoints.tensor_file import LateTensors
from retentive.checkpoints.weights import load_model, read_one_by_one
from retentive.data.token_store import TokenStore
from retentive.errors import MismatchError
from retentive.files.progress import say
from retentive.layers.parameters.late_filling import late_filling
from retentive.models.base import DecoderModel
from retentive.models.protocol import FamilyConfig
from retentive.models.registry import build
from retentive.models.retro import Retro, RetroConfig, retrofit
from retentive.models.retro.starting import start_from
from retentive.models.rmt import RecurrentMemoryConfig, with_memory
from retentive.models.rmt.around import start_as_large_as
from retentive.training.lora import add_lora, check_lora, merge_lora
from retentive.training.run.config import TrainConfig
from retentive.training.run.run_state import read_weights, weights_one_by_one


def check_first_model(model: FamilyConfig, config: TrainConfig, store: TokenStore) -> None:
    """Validate that the saved model which a run begins with fits the model and the text.

    Raises:
        ValueError: If a model of another family than RETRO and recurrent memory is to be retrofitted.
        MismatchError: If the saved model has another config or tokenizer.
        FileNotFoundError: If a folder holds no model.
        ImportError: If LoRA is asked for and peft is not installed.
    """
    if config.lora_rank:
        check_lora()
    if config.init is not None:
        check_floats(config.init, "init")
        check_tokenizer(config.init, store)
        _check_config(model, config.init)
    if config.retrofit is not None:
        if not isinstance(model, RetroConfig | RecurrentMemoryConfig):
            raise ValueError(
                f"retrofit must be null for a {model.family}: a RETRO or a recurrent memory alone is built around a "
                "trained model."
            )
        check_floats(config.retrofit, "retrofit")
        check_tokenizer(config.retrofit, store)


def check_floats(folder: Path, option: str) -> None:
    """Refuse a quantised model where its weights are taken over, or trained.

    Raises:
        MismatchError: If it is one; the message names the option.
    """
    quantisation = read_manifest(folder).quantisation
    if quantisation is not None:
        raise MismatchError(
            f"{option} must be the folder of a model with weights of floats, but those in {folder} have "
            f"{quantisation.bits} bits: take the model that it was made of."
        )


def first_model(model: FamilyConfig, config: TrainConfig) -> DecoderModel:
    """Make the model with the weights of step 0, in float32."""
    made = _whole_model(model, config)
    if config.lora_rank:
        add_lora(made, config.lora_rank)
    return made


def _whole_model(model: FamilyConfig, config: TrainConfig) -> DecoderModel:
    if config.init is not None:
        return load_model(config.init, dtype=torch.float32).train()
    if config.retrofit is None:
        return build(model)
    backbone = load_model(config.retrofit, dtype=torch.float32).train()
    if isinstance(model, RecurrentMemoryConfig):
        return with_memory(backbone, model)
    return retrofit(backbone, cast("RetroConfig", model))


def last_model(
    model: FamilyConfig, config: TrainConfig, checkpoint: Path, frozen: Sequence[str], *, whole: bool
) -> tuple[DecoderModel, LateTensors | None]:
    """Make the model of a checkpoint, whose weights hold what LoRA learned, with the parts that are frozen.

    Unless it is to be ``whole``, which may not fit, it has no memory: its weights are read when they are asked for.
    """
    if not whole:
        with torch.device("meta"):
            bare = build(model)
        freeze(bare, frozen, checkpoint)
        return bare, weights_one_by_one(checkpoint, bare)
    made = build(model)
    if config.lora_rank:
        add_lora(made, config.lora_rank)
        # Its modules in the decoder have names of their own, and are not there in the end.
        frozen = ["decoder", *(name for name in frozen if not name.startswith("decoder."))]
    read_weights(checkpoint, made)
    if config.lora_rank:
        merge_lora(made)
    freeze(made, frozen, checkpoint)
    return made, None


def first_model_to_shard(model: FamilyConfig, config: TrainConfig) -> tuple[DecoderModel, Iterator[tuple[str, Tensor]]]:
    """Make the model of `first_model` without memory, and its weights one after another, for processes that keep parts.

    Draws from torch's generator what `first_model` draws, at once.
    """
    if config.init is not None:
        bare, stored = read_one_by_one(config.init, torch.float32)
        return bare.train(), stored
    if config.retrofit is None:
        with torch.device("meta"):
            bare = build(model)
        return bare, _filled(bare)
    backbone, stored = read_one_by_one(config.retrofit, torch.float32)
    if isinstance(model, RecurrentMemoryConfig):
        with torch.device("meta"):
            bare = build(model).train()
        bare.decoder.requires_grad_(False)
        new = [pair for pair in _filled(bare) if not pair[0].startswith("decoder.")]
        return bare, _around(stored, new)
    with torch.device("meta"):
        bare = retrofit(backbone.train(), cast("RetroConfig", model))
    trained = dict.fromkeys(name for name, _ in backbone.named_parameters())
    new = (pair for pair in _filled(bare) if pair[0] not in trained)
    return bare, _fitted(cast("RetroConfig", model), stored, new)


def _around(stored: Iterator[tuple[str, Tensor]], new: list[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """The decoder's weights, then those of the memory as `with_memory` begins with them."""
    table = torch.zeros(1)
    for name, tensor in stored:
        table = tensor if name == "decoder.embedding.tokens.weight" else table
        yield name, tensor
    for name, tensor in new:
        if name.startswith("memory."):
            start_as_large_as(tensor, table)
        yield name, tensor


def _fitted(
    model: RetroConfig, stored: Iterator[tuple[str, Tensor]], new: Iterator[tuple[str, Tensor]]
) -> Iterator[tuple[str, Tensor]]:
    """The backbone's weights, then those of the other parts as RETROfit begins with them; of the backbone, the first
    layers alone are held, which the encoder starts from.
    """
    first = ("decoder.embedding.", *(f"decoder.blocks.{layer}." for layer in range(model.encoder_num_layers)))
    kept: dict[str, Tensor] = {}
    for name, tensor in stored:
        if name.startswith(first):
            kept[name] = tensor
        yield name, tensor
    filled = dict(new)
    with torch.device("meta"):
        parts = Retro(model)
    parts.load_state_dict({**kept, **filled}, strict=False, assign=True)
    start_from(parts, parts.decoder)
    yield from ((name, tensor) for name, tensor in parts.state_dict().items() if name in filled)


def _filled(model: DecoderModel) -> Iterator[tuple[str, Tensor]]:
    make = late_filling(model)
    return ((name, make(name)) for name, _ in model.named_parameters())


def first_digests(config: TrainConfig) -> dict[str, str | None]:
    """Return digests of the saved weights that a run begins with; their folders may move."""
    return {
        "retrofitted_weights": None if config.retrofit is None else read_manifest(config.retrofit).weights_digest,
        "initial_weights": None if config.init is None else read_manifest(config.init).weights_digest,
    }


def check_tokenizer(folder: Path, store: TokenStore) -> None:
    """Validate that a saved model was trained with the tokenizer of a token store; one that names none may be any, see
    `say_if_unknown`.

    Raises:
        MismatchError: If it was trained with another.
    """
    fingerprint, found = read_manifest(folder).tokenizer_fingerprint, store.manifest.tokenizer.fingerprint
    if fingerprint is not None and fingerprint != found:
        raise MismatchError(
            f"the model in {folder} was trained with another tokenizer than that of {store.folder}: prepare the text "
            f"with the model's (retentive prepare --tokenizer {folder} ...)."
        )


def say_if_unknown(folder: Path, store: TokenStore) -> None:
    """Say that nothing tells which tokenizer a saved model was trained with, if it was saved without one."""
    if read_manifest(folder).tokenizer_fingerprint is None:
        say(
            f"the model in {folder} was saved without a tokenizer: its token ids are taken for those of "
            f"{store.manifest.tokenizer.name!r} in {store.folder}. save_model(model, folder, tokenizer) names it."
        )


def _check_config(model: FamilyConfig, folder: Path) -> None:
    saved = read_manifest(folder).config
    if saved.family != model.family:
        raise MismatchError(
            f"init must be the folder of a {model.family}, but the model in {folder} is a {saved.family}; train "
            f"--family {saved.family}."
        )
    names = [field.name for field in dataclasses.fields(cast("Any", model))]
    wrong = [name for name in names if getattr(model, name) != getattr(saved, name)]
    if wrong:
        values = "; ".join(f"{name} is {getattr(saved, name)!r} there, {getattr(model, name)!r} here" for name in wrong)
        raise MismatchError(
            f"init must be the folder of a model with the config of this one, but in {folder} {values}: leave these "
            "options at the saved model's values."
        )
