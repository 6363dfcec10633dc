"""``recurrent_memory_transformer_pytorch`` by its own names, as of release 0.7.0; see ``docs/migrating.md``."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from retentive.compat.arguments import decoder_config, refuse
from retentive.errors import MismatchError
from retentive.generation import Sampling, generate
from retentive.models import rmt
from retentive.ops.cross_entropy import IGNORED
from retentive.ops.lean.plain import check_adds_nothing_to_calls
from retentive.shapes import Logits, Memory, TokenMask, Tokens
from retentive.training.step.pieces import cut_text
from retentive.training.step.replay import replay
from retentive.training.step.unroll import unrolled

_THEIR_PARTS = ("null_kv", "to_value_residual_mix", "learned_value_residual_mix", "read_memory_emb")
"""Parts of the package's weights that make its model another function than this one."""

_NOT_ADDED = (
    "there the write tokens begin as their learned vectors plus the memory, here as one of the two; "
    "RecurrentMemoryConfig(write_start='memory') begins them as the memory, as the papers do"
)

Loss = Float[Tensor, ""]
Recalled = list[Tensor]


class RecurrentMemoryTransformer(nn.Module):
    """One segment a call: ``logits, memories, xl_memories = model(x, memories, xl_memories=xl_memories)``.

    ``use_flash_attn`` changes nothing: attention is always computed by torch's fused kernels. Nor does
    ``next_write_mem_stop_grad``, which is about ``add_write_to_next_write_mem``.

    Attributes:
        model: The model of this library that does the work; it can be saved, served and trained like any other.
        seq_len: Tokens of a segment.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_tokens: int,
        depth: int,
        num_memory_tokens: int,
        seq_len: int,
        causal: bool = True,
        dim_head: int = 64,
        heads: int = 8,
        ff_mult: int = 4,
        attn_dropout: float = 0.0,
        ff_dropout: float = 0.0,
        use_flash_attn: bool = False,
        ignore_index: int = -1,
        abs_pos_emb: bool = True,
        rotary_pos_emb: bool = False,
        use_xl_memories: bool = True,
        xl_mem_len: int | None = None,
        enhanced_xl_recurrence: bool = False,
        emb_gradient_frac: float = 0.1,
        memory_not_causal: bool = True,
        add_write_to_next_write_mem: bool = False,
        next_write_mem_stop_grad: bool = True,
        always_have_read_memories: bool = True,
        num_residual_streams: int = 1,
    ) -> None:
        """Make the model; the arguments are the package's, and `RecurrentMemoryConfig` explains them.

        Raises:
            ValueError: If an argument is out of range or is not supported here.
        """
        super().__init__()
        refuse("num_residual_streams", num_residual_streams, 1, "there is one residual stream here")
        backbone = decoder_config(
            sizes=(num_tokens, dim, depth, heads, dim_head),
            dropouts=(ff_dropout, attn_dropout),
            intermediate_size=int(dim * ff_mult * 2 / 3),
            gated=True,
            **_positions(abs_pos_emb, rotary_pos_emb, seq_len),
        )
        recalled = _recalled_length(use_xl_memories, xl_mem_len, enhanced_xl_recurrence, seq_len)
        config = rmt.RecurrentMemoryConfig(
            backbone=backbone,
            segment_length=seq_len,
            num_memory_tokens=num_memory_tokens,
            bidirectional=not causal,
            xl_length=recalled,
            xl_gradient="none" if recalled else "weights",  # that package recalls keys and values, without gradients
            xl_layer_above=enhanced_xl_recurrence,
            embedding_gradient=emb_gradient_frac,
        )
        refuse("add_write_to_next_write_mem", add_write_to_next_write_mem, False, _NOT_ADDED)
        if causal:
            config = _with_write_memory(config, memory_not_causal, always_have_read_memories)
        else:
            _check_one_block(memory_not_causal, always_have_read_memories)
        self.model = rmt.RecurrentMemoryTransformer(config)
        self.causal, self.seq_len, self.ignore_index = causal, seq_len, ignore_index

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights that a model of this class saved.

        Raises:
            MismatchError: If they are of the package's own model, which has parts that are not here.
        """
        theirs = {part for part in _THEIR_PARTS for name in state_dict if part in name}
        if theirs:
            raise MismatchError(
                f"state_dict must be of this library's model, but has {', '.join(sorted(theirs))}, which only "
                "recurrent-memory-transformer-pytorch's own has: its layers read a learned null key and value and mix "
                "in the first layer's values, and it adds read_memory_emb to the memory. Train the model here."
            )
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def forward(
        self,
        x: Tokens,
        read_memories: Memory | Float[Tensor, "slots hidden"] | None = None,
        *,
        mask: TokenMask | None = None,
        labels: Tokens | None = None,
        xl_memories: Recalled | None = None,
        mask_out_read_memories: bool = False,
    ) -> tuple[Logits | Loss, Memory, Recalled | None]:
        """Read one segment.

        Args:
            x: At most ``seq_len`` tokens; a shorter segment writes its memory too.
            read_memories: Memory that the segment before wrote; None begins a text.
            mask: False at padding.
            labels: What each token should predict, `ignore_index` where none counts.
            xl_memories: Hidden states of the segment before.
            mask_out_read_memories: Must be False.

        Returns:
            The logits (or with labels the loss), the memory for the next segment, and for each layer the hidden states
            ``(batch, recalled, dim)`` that it reads again; None without ``use_xl_memories``.

        Raises:
            ValueError: If the segment is too long, or an argument is not supported here.
        """
        refuse("mask_out_read_memories", mask_out_read_memories, False, "give read_memories=None to read none")
        if x.shape[1] > self.seq_len:
            raise ValueError(
                f"x must be one segment, at most seq_len = {self.seq_len} tokens, but has {x.shape[1]}; the "
                "RecurrentMemoryTransformerWrapper cuts longer texts."
            )
        state = self.state(x.shape[0], read_memories, xl_memories)
        targets = None if labels is None else self.targets(labels)
        output = self.model(x, state, targets, mask=mask, logits_to_keep=None if labels is None else 0)
        following = cast("rmt.RecurrentMemoryState", output.state)
        recalled = [*following.history.unbind(1)] if self.model.config.xl_length else None
        answer = output.logits if labels is None else output.loss
        return cast("Tensor", answer), self.model.summarise(following), recalled

    def state(
        self, batch: int, memories: Tensor | None = None, xl_memories: Recalled | None = None
    ) -> rmt.RecurrentMemoryState:
        """This library's state for the package's memories, at the begin of a text or of its next segment."""
        state = self.model.initial_state(batch)
        if memories is not None:
            if memories.ndim == 2:
                memories = memories.expand(batch, -1, -1)
            state = replace(
                state, memory=memories.to(state.memory), position=torch.full_like(state.position, self.seq_len)
            )
        if xl_memories:
            state = replace(state, history=torch.stack([*xl_memories], 1).to(state.history))
        return state

    def targets(self, labels: Tokens) -> Tokens:
        """Labels with -100, this library's mark, in place of `ignore_index`."""
        return labels.masked_fill(labels == self.ignore_index, IGNORED)


class RecurrentMemoryTransformerWrapper(nn.Module):
    """Reads texts of any length: cuts them into segments and carries the memory (and recalled states) along."""

    def __init__(self, transformer: RecurrentMemoryTransformer, truncate_at_step: int | None = None) -> None:
        """Wrap a model; ``truncate_at_step`` is the number of segments after which gradients are cut."""
        super().__init__()
        self.transformer = transformer
        self.seq_len = transformer.seq_len
        self.truncate_at_step = truncate_at_step

    @property
    def _model(self) -> rmt.RecurrentMemoryTransformer:
        """What reads texts, if a call of the transformer does nothing more."""
        cure = "put it on transformer.model.decoder, which is called for each segment"
        check_adds_nothing_to_calls("transformer", self.transformer, RecurrentMemoryTransformer, cure)
        return self.transformer.model

    def forward(
        self,
        x: Tokens,
        memories: Tensor | None = None,
        *,
        mask: TokenMask | None = None,
        xl_memories: Recalled | None = None,
        return_loss: bool = False,
        labels: Tokens | None = None,
        truncate_at_step: int | None = None,
        memory_replay_backprop: bool = False,
        mrbp_loss_weight: float = 1.0,
    ) -> tuple[Logits | Loss, Memory] | Loss:
        """Read a text.

        Args:
            x: The text, with one token more than it has labels where these are taken from it.
            memories: Memory of an earlier text that this one continues.
            mask: False at padding.
            xl_memories: Hidden states of that text.
            return_loss: Return the loss: its mean over all labels of the text.
            labels: What each token of ``x`` should predict; None takes the text itself, shifted.
            truncate_at_step: Replaces the value given to the constructor.
            memory_replay_backprop: Also run backward, holding one segment in memory, and return the loss alone.
            mrbp_loss_weight: Factor of the loss in that case, for accumulated gradients.

        Returns:
            Logits and memories; or loss and memories; or the loss alone, whose gradients are already computed.
        """
        if return_loss or memory_replay_backprop:
            return self._loss(
                x,
                self.transformer.state(x.shape[0], memories, xl_memories),
                mask,
                labels,
                self.truncate_at_step if truncate_at_step is None else truncate_at_step,
                mrbp_loss_weight if memory_replay_backprop else None,
            )
        refuse("labels", labels, None, "they are for return_loss=True")
        state = self.transformer.state(x.shape[0], memories, xl_memories)
        output = self._model(x, state, mask=mask)
        following = cast("rmt.RecurrentMemoryState", output.state)
        return cast("Tensor", output.logits), self._model.summarise(following)

    def _loss(
        self,
        x: Tokens,
        state: rmt.RecurrentMemoryState,
        mask: TokenMask | None,
        labels: Tokens | None,
        truncate_at_step: int | None,
        replay_weight: float | None,
    ) -> tuple[Loss, Memory] | Loss:
        if labels is None:
            if x.shape[1] < 2:
                raise ValueError(f"x must have at least 2 tokens for labels to be taken from it, but has {x.shape[1]}.")
            x, labels, before = x[:, :-1], x[:, 1:], mask
            if before is not None:  # padding is neither read nor predicted
                mask, labels = before[:, :-1], labels.masked_fill(~before[:, 1:], IGNORED)
        else:
            labels = self.transformer.targets(labels)
        model = self._model
        pieces = cut_text(model, x, labels, length=self.seq_len, mask=mask)
        dtype = torch.promote_types(torch.float32, model.decoder.dtype)
        if replay_weight is not None:
            loss, _ = replay(pieces, state, truncate_after=truncate_at_step, scale=replay_weight)
            return loss.to(dtype) * replay_weight
        loss, following = unrolled(pieces, state, truncate_after=truncate_at_step)
        return loss.to(dtype), model.summarise(cast("rmt.RecurrentMemoryState", following))

    def generate(
        self,
        prime: Tokens,
        *,
        length: int,
        memories: Tensor | None = None,
        xl_memories: Recalled | None = None,
        temperature: float = 1.0,
        filter_thres: float = 0.9,
    ) -> Int[Tensor, "batch new"]:
        """Continue texts until they have ``length`` tokens, those of ``prime`` included; return the new ones.

        Args:
            prime: Token ids, at least one a row.
            length: Tokens of each text in the end.
            memories: Memory of an earlier text that this one continues.
            xl_memories: Hidden states of that text.
            temperature: Divides the logits; 0 always takes the likeliest.
            filter_thres: Share of the vocabulary that is never drawn: its least likely tokens.
        """
        if not self.transformer.causal:
            raise ValueError("generate needs a model with causal=True, which reads from left to right.")
        new = length - prime.shape[1]
        if new < 0:
            raise ValueError(f"length must be at least that of prime, {prime.shape[1]} tokens, but is {length}.")
        if not new:
            return prime[:, :0]
        vocab = self._model.config.vocab_size
        greedy = Sampling()
        kept = max(1, math.ceil((1 - filter_thres) * vocab))
        sampling = Sampling(temperature=temperature, top_k=kept) if temperature > 0 else greedy
        state = self.transformer.state(prime.shape[0], memories, xl_memories)
        return torch.stack(generate(self._model, prime, max_new_tokens=new, sampling=sampling, state=state).tokens)


def _check_one_block(memory_not_causal: bool, always_have_read_memories: bool) -> None:
    """Check the arguments that need a memory for reading and one for writing, which an encoder does not have."""
    reason = "with causal=False there is one block of memory, which all tokens see"
    refuse("memory_not_causal", memory_not_causal, True, reason)
    refuse("always_have_read_memories", always_have_read_memories, True, reason)


def _with_write_memory(
    config: rmt.RecurrentMemoryConfig, not_causal: bool, read_first: bool
) -> rmt.RecurrentMemoryConfig:
    """The config of a decoder, which has memory tokens to read before the text and others to write after it."""
    return replace(
        config,
        causal_memory=config.num_memory_tokens > 1 and not not_causal,
        read_first=read_first,
        write_start="learned",
    )


def _positions(absolute: bool, rotary: bool, seq_len: int) -> dict[str, Any]:
    """The backbone's options for positions."""
    if absolute == rotary:
        raise ValueError(
            f"exactly one of abs_pos_emb and rotary_pos_emb must be True, but both are {absolute}; a token has one "
            "position here: give abs_pos_emb=False with rotary_pos_emb=True."
        )
    return {"positions": "rotary"} if rotary else {"positions": "learned", "max_positions": seq_len}


def _recalled_length(used: bool, length: int | None, layer_above: bool, seq_len: int) -> int:
    """The number of tokens of the segment before that are recalled."""
    if used:
        return seq_len if length is None else length
    why = "nothing is recalled with use_xl_memories=False"
    refuse("xl_mem_len", length or None, None, why)
    refuse("enhanced_xl_recurrence", layer_above, False, why)
    return 0


__all__ = ["RecurrentMemoryTransformer", "RecurrentMemoryTransformerWrapper"]
