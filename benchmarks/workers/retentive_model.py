"""The works of a model of this library, of any family in the registry."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.racing.flops import training_flops
from benchmarks.racing.worker import Work
from benchmarks.workers.training_step import products_in, random_tokens, training_step
from retentive.generation import generate
from retentive.layers.mixers.retention import RetentionConfig
from retentive.models.base import DecoderModel
from retentive.models.registry import build, config_from_dict
from retentive.training.step.compiling import compile_in_place


def works(*, config: dict[str, Any], threads: int) -> Mapping[str, Callable[..., Work]]:
    """The works, over one model.

    Args:
        config: What `retentive.models.registry.config_from_dict` reads.
        threads: OpenMP threads.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = build(config_from_dict(config))
    vocab_size = config["vocab_size"]
    return {
        "training_step": partial(_training_step, model, vocab_size),
        "prefill": partial(_prefill, model, vocab_size),
        "decode": partial(_decode, model, vocab_size),
        "take_over": partial(_take_over, model),
    }


def _training_step(
    model: DecoderModel, vocab_size: int, *, time: int, compiled: bool = False, precision: str = "float32"
) -> Work:
    if compiled:
        torch.compiler.reset()  # each length is compiled for itself, as a run of one length is
        compile_in_place(model)

    def loss_of(tokens: Tensor, labels: Tensor) -> Tensor:
        loss = model(tokens, labels=labels, logits_to_keep=0).loss
        assert loss is not None
        return loss

    step = training_step(model, loss_of, vocab_size=vocab_size, time=time, precision=precision)
    facts = {"parameters": float(sum(parameter.numel() for parameter in model.parameters()))}
    if isinstance(model.decoder.config.mixers[0], RetentionConfig):
        facts["matrix_flop"] = training_flops(model, time)
    return Work(run=step.run, units=step.units, facts=facts)


def _prefill(model: DecoderModel, vocab_size: int, *, time: int, precision: str = "float32") -> Work:
    """Read a prompt as `generate` does: in pieces, with the logits of the last position and the state."""
    tokens = random_tokens(1, time, vocab_size)

    def run() -> None:
        with products_in(precision):
            generate(model, tokens, max_new_tokens=1)

    return Work(run=run, units=time)


def _decode(
    model: DecoderModel, vocab_size: int, *, batch: int, context: int, steps: int, engine: str = "eager"
) -> Work:
    """Greedy tokens after ``context`` tokens, as `generate` writes them; each repetition starts from the same state."""
    state = generate(model, random_tokens(batch, context, vocab_size), max_new_tokens=1).state
    run = partial(generate, model, state=state, max_new_tokens=steps, engine=engine)
    table = model.decoder.embedding.tokens.weight  # of which a token reads one row
    weights = sum(tensor.nbytes for tensor in model.parameters() if tensor is not table)
    size = state.model.size_in_bytes
    return Work(run=lambda: run(), units=steps, facts={"state_bytes": size, "step_bytes": weights + 2 * size})


def _take_over(model: DecoderModel, *, path: str) -> Work:
    """Load what yet-another-retnet's worker saved; its logits and ours then differ by rounding alone."""
    saved = torch.load(path, weights_only=True)
    model.load_state_dict(weights_of_yet_another_retnet(saved["weights"]))
    with torch.inference_mode():
        logits = model.eval()(saved["tokens"]).logits
    difference = (logits - saved["logits"]).abs().max() / saved["logits"].abs().max()
    return Work(run=lambda: None, facts={"relative_difference": float(difference)})


def weights_of_yet_another_retnet(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names for yet-another-retnet's weights; its four projections of the input are one of ours."""
    ours = {"decoder.embedding.tokens.weight": theirs["embedding.weight"]}
    pairs = {"norm1": "mixer_norm", "norm2": "feed_forward_norm", "retention.out_proj": "mixer.output_proj"}
    pairs |= {"linear1": "feed_forward.input_proj", "linear2": "feed_forward.output_proj"}
    layers = {name.split(".")[2] for name in theirs if name.startswith("decoder.layers.")}
    for kind in ("weight", "bias"):
        ours[f"decoder.head.{kind}"] = theirs[f"out.{kind}"]
        for layer in layers:
            for their_name, our_name in pairs.items():
                ours[f"decoder.blocks.{layer}.{our_name}.{kind}"] = theirs[
                    f"decoder.layers.{layer}.{their_name}.{kind}"
                ]
            inputs = [theirs[f"decoder.layers.{layer}.retention.{part}_proj.{kind}"] for part in "qkvg"]
            ours[f"decoder.blocks.{layer}.mixer.input_proj.{kind}"] = torch.cat(inputs)
    return ours
