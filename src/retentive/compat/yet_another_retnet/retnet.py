"""``yet_another_retnet.retnet``: its model and its sizes, computed by this library."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from retentive.checkpoints.conversion.formats import FORMATS
from retentive.checkpoints.conversion.key_map import to_ours
from retentive.compat.arguments import activation_name, refuse
from retentive.layers.mixers.retention_heads import RetentionState
from retentive.models import retnet
from retentive.shapes import Logits, Tokens
from retentive.state import ModelState


class RetNet(nn.Module):
    """The language model, with the calls of ``yet_another_retnet.retnet.RetNet``.

    `load_state_dict` takes the package's names of weights as well as ours.

    Attributes:
        model: The model of this library that does the work; it can be saved, served and trained like any other.
    """

    def __init__(
        self,
        num_tokens: int,
        d_model: int = 512,
        nhead: int = 8,
        num_layers: int = 6,
        dropout: float = 0.1,
        activation: str | Callable[[Tensor], Tensor] = "swish",
        dim_feedforward: int = 2048,
        norm_first: bool = True,
        layer_norm_eps: float = 1e-6,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make the model; the arguments are the package's.

        Raises:
            ValueError: If heads have no whole number of channels, ``norm_first`` is False, ``dropout`` is not a share,
                or the activation is none of ``swish``, ``gelu`` and ``relu``.
        """
        super().__init__()
        refuse("norm_first", norm_first, True, "theirs adds the norm of what a layer writes, which no paper has")
        if d_model % nhead:
            raise ValueError(f"d_model must be a multiple of nhead, but {d_model} / {nhead} is not whole.")
        name: Any = activation_name(activation)
        self.d_model, self.num_layers = d_model, num_layers
        config = retnet.RetNetConfig(
            vocab_size=num_tokens,
            hidden_size=d_model,
            num_layers=num_layers,
            num_heads=nhead,
            value_dim=d_model // nhead,
            intermediate_size=dim_feedforward,
            activation=name,
            gate=name,
            norm="layer_norm",
            norm_epsilon=layer_norm_eps,
            head_norm="layer_norm",
            head_norm_epsilon=1e-6,
            final_norm=False,
            bias=True,
            head_bias=True,
            dropout=dropout,
        )
        with torch.device("cpu" if device is None else device):
            self.model = retnet.RetNet(config).to(dtype=dtype)
        self._state_scale = (d_model // nhead) ** -0.5

    def forward_parallel(self, x: Tokens) -> Logits:
        """Logits of every token."""
        return cast("Tensor", self.model(x).logits)

    def forward_recurrent(
        self, x: Int[Tensor, "batch"], seq_idx: int, prev_states: Sequence[Tensor | None] = ()
    ) -> tuple[Float[Tensor, "batch vocab"], list[Tensor]]:
        """Logits of one token at position ``seq_idx``, and each layer's state after it."""
        logits, states = self.forward_chunkwise(x[:, None], seq_idx, prev_states)
        return logits[:, 0], states

    def forward_chunkwise(
        self, x: Tokens, start_idx: int, prev_states: Sequence[Tensor | None] = ()
    ) -> tuple[Logits, list[Tensor]]:
        """Logits of a piece whose first token is at ``start_idx``, and each layer's state after it."""
        output = self.model(x, self._from_theirs(x.shape[0], start_idx, prev_states))
        layers = cast("tuple[RetentionState, ...]", output.state.layers)
        return cast("Tensor", output.logits), [layer.kv * self._state_scale for layer in layers]

    def forward(self, inputs: Tokens, labels: Tokens) -> Float[Tensor, ""]:
        """Mean cross-entropy of the labels, which are already shifted; -100 marks labels that do not count."""
        return cast("Tensor", self.model(inputs, labels=labels, logits_to_keep=0).loss)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights by their names in yet-another-retnet or by ours.

        Raises:
            MismatchError: If a weight is missing, unexpected or of another shape.
        """
        if "embedding.weight" in state_dict:
            theirs, config = FORMATS["yet-another-retnet"], self.model.config
            shapes = {name: tensor.shape for name, tensor in state_dict.items()}
            expected = {name: tensor.shape for name, tensor in self.model.state_dict().items()}
            sizes = theirs.sizes(config)
            derived = theirs.derived(config)
            ours = to_ours(theirs.key_map, shapes, state_dict.__getitem__, expected, sizes, derived, "state_dict")
            state_dict = {f"model.{name}": tensor for name, tensor in ours.items()}
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def _from_theirs(self, batch: int, index: int, states: Sequence[Tensor | None]) -> ModelState | None:
        if not states and not index:
            return None
        empty = self.model.initial_state(batch)
        if not states:
            states = [None] * self.num_layers
        if len(states) != self.num_layers:
            raise ValueError(f"prev_states must be one for each layer, {self.num_layers}, but are {len(states)}.")
        position = torch.full_like(empty.position, index)
        layers = tuple(
            RetentionState(
                kv=cast("RetentionState", nothing).kv if state is None else state / self._state_scale,
                position=position,
            )
            for nothing, state in zip(empty.layers, states, strict=True)
        )
        return ModelState(layers=layers, position=position)


def retnet_1_3b(num_tokens: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> RetNet:
    """1.3 billion parameters."""
    return RetNet(num_tokens, 2048, 8, 24, dim_feedforward=4096, device=device, dtype=dtype)


def retnet_2_7b(num_tokens: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> RetNet:
    """2.7 billion parameters."""
    return RetNet(num_tokens, 2560, 10, 32, dim_feedforward=5120, device=device, dtype=dtype)


def retnet_6_7b(num_tokens: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> RetNet:
    """6.7 billion parameters."""
    return RetNet(num_tokens, 4096, 16, 32, dim_feedforward=8192, device=device, dtype=dtype)
