"""``retro_pytorch.RETRO``: its model, computed by this library."""

from typing import Any, cast

from jaxtyping import Float, Int
from torch import Tensor, nn

from retentive.compat.arguments import decoder_config, refuse
from retentive.models.base import DecoderModel
from retentive.models.registry import build
from retentive.models.retro import Retro, RetroConfig
from retentive.ops.cross_entropy import IGNORED
from retentive.shapes import Logits, Tokens

BERT_VOCAB_SIZE = 28996

Retrieved = Int[Tensor, "batch chunks neighbours length"] | Int[Tensor, "batch chunks length"]


class RETRO(nn.Module):
    """The model, with the calls of ``retro_pytorch.RETRO``.

    Attributes:
        model: The model of this library that does the work; it can be saved, served and trained like any other. Where
            no layer of the decoder reads neighbours, it is that decoder alone.
        seq_len: Tokens of a sequence, at most.
        pad_id: Id of padding, in sequences and in what is retrieved.
        chunk_size: Tokens of a chunk.
    """

    def __init__(
        self,
        *,
        num_tokens: int = BERT_VOCAB_SIZE,
        max_seq_len: int = 2048,
        enc_dim: int = 896,
        enc_depth: int = 2,
        enc_cross_attn_layers: tuple[int, ...] | None = None,
        dec_depth: int = 12,
        dec_cross_attn_layers: tuple[int, ...] | None = (1, 3, 6, 9),
        heads: int = 8,
        dec_dim: int = 768,
        dim_head: int = 64,
        enc_attn_dropout: float = 0.0,
        enc_ff_dropout: float = 0.0,
        dec_attn_dropout: float = 0.0,
        dec_ff_dropout: float = 0.0,
        chunk_size: int = 64,
        pad_id: int = 0,
        enc_scale_residual: float | None = None,
        dec_scale_residual: float | None = None,
        norm_klass: type[nn.Module] | None = None,
        gated_rmsnorm: bool = False,
        use_deepnet: bool = False,
    ) -> None:
        """Make the model; the arguments are the package's.

        Raises:
            ValueError: If an argument is out of range or is not supported here.
        """
        super().__init__()
        for name, given in (("enc_scale_residual", enc_scale_residual), ("dec_scale_residual", dec_scale_residual)):
            refuse(name, given, None, "use_deepnet=True scales by DeepNorm's rule")
        norm: Any = self._norm(norm_klass, gated_rmsnorm, use_deepnet)
        backbone = decoder_config(
            sizes=(num_tokens, dec_dim, dec_depth, heads, dim_head),
            dropouts=(dec_ff_dropout, dec_attn_dropout),
            norm=norm,
            final_norm=not use_deepnet,
            feed_forward_bias=True,
            output_bias=True,
        )
        self.seq_len, self.pad_id, self.chunk_size = max_seq_len, pad_id, chunk_size
        if not (cross_layers := _layers(dec_cross_attn_layers, dec_depth)):
            self.model: DecoderModel = build(backbone)
            return
        config = RetroConfig(
            backbone=backbone,
            chunk_size=chunk_size,
            cross_layers=cross_layers,
            encoder_hidden_size=enc_dim,
            encoder_num_layers=enc_depth,
            encoder_cross_layers=_layers(enc_cross_attn_layers, enc_depth),
            **_heads(heads, dim_head),
            share_embeddings=True,
            norm=norm,
            residual="deepnorm" if use_deepnet else "pre_norm",
            **_dropouts(encoder=(enc_ff_dropout, enc_attn_dropout), cross=(dec_ff_dropout, dec_attn_dropout)),
        )
        self.model = Retro(config)

    @staticmethod
    def _norm(norm_klass: type[nn.Module] | None, gated: bool, deepnet: bool) -> str:
        if norm_klass not in (None, nn.LayerNorm, nn.RMSNorm):
            raise ValueError(
                f"norm_klass must be None, torch.nn.LayerNorm or torch.nn.RMSNorm, but is {norm_klass}: a model that "
                "can be saved has its norm by name."
            )
        if gated and norm_klass is not None:
            raise ValueError(f"norm_klass means nothing with gated_rmsnorm=True, but is {norm_klass}; leave it out.")
        if gated:
            return "gated_rms_norm"
        return "layer_norm" if norm_klass is nn.LayerNorm or deepnet else "rms_norm"

    def forward(
        self, seq: Tokens, retrieved: Retrieved | None = None, return_loss: bool = False
    ) -> Logits | Float[Tensor, ""]:
        """Logits of a sequence, or with ``return_loss`` the loss of its tokens after the first.

        Args:
            seq: Token ids; with ``return_loss`` one more than are read.
            retrieved: Neighbours of every whole chunk that is read, with their continuation; ``pad_id`` is padding.
                None reads none, for the loss too.
            return_loss: In training mode or not.

        Raises:
            ValueError: If the sequence is too long, or the neighbours are not of its chunks.
        """
        time = seq.shape[1] - return_loss
        if not 1 <= time <= self.seq_len:
            raise ValueError(
                f"seq must have 1 to max_seq_len = {self.seq_len} tokens{', and one more for the loss' * return_loss}, "
                f"but has {seq.shape[1]}."
            )
        read = {"neighbours": self.neighbours(retrieved)} if self.reads_neighbours else {}
        if not return_loss:
            return cast("Tensor", self.model(seq, **read).logits)
        labels = seq[:, 1:].masked_fill(seq[:, 1:] == self.pad_id, IGNORED)
        output = self.model(seq[:, :-1], labels=labels, logits_to_keep=0, **read)
        return cast("Tensor", output.loss)

    @property
    def reads_neighbours(self) -> bool:
        """Whether some layer of the decoder does."""
        return self.model.chunked_reading is not None

    def neighbours(self, retrieved: Tensor | None) -> Tensor | None:
        """Neighbours as this library's model takes them: -1 for padding, None without any chunk."""
        if retrieved is None or not retrieved.shape[1]:
            return None
        return retrieved.masked_fill(retrieved == self.pad_id, -1)


def _heads(number: int, channels: int) -> dict[str, Any]:
    """The heads of the encoder and of the cross-attentions, as those of the decoder."""
    parts = ("encoder", "cross")
    return {f"{part}_num_heads": number for part in parts} | {f"{part}_head_dim": channels for part in parts}


def _dropouts(**parts: tuple[float, float]) -> dict[str, Any]:
    """Of feed-forwards and of attentions, by part."""
    names = ("dropout", "attention_dropout")
    return {f"{part}_{name}": share for part, both in parts.items() for name, share in zip(names, both, strict=True)}


def _layers(given: tuple[int, ...] | None, depth: int) -> tuple[int, ...]:
    """Layers by number, from 1; None is all of them. Those beyond the depth are absent, as in the package."""
    return tuple(layer for layer in range(1, depth + 1) if given is None or layer in given)
