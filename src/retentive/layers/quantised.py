"""Projections and token tables whose weights are whole numbers; see `retentive.ops.quantisation`.

They take the place of a model's own after it was trained. A model of them reads and writes text, and cannot be trained.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from retentive.config_types import check_types
from retentive.ops.lean.plain import check_nothing_added
from retentive.ops.quantisation import (
    GROUP_SIZES,
    dequantise_groups,
    dequantise_rows,
    fits_four_bits,
    pack,
    product_of_groups,
    product_of_rows,
    quantise_groups,
    quantise_rows,
    unpack,
)

Rows = Float[Tensor, "*rows inputs"]
Products = Float[Tensor, "*rows outputs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantisationConfig:
    """How weights are rounded.

    Attributes:
        bits: 8, with a scale a row, or 4, with a scale and a zero a group.
        group_size: For 4 bits: inputs that share a scale: 32, 64, 128 or 256.
    """

    bits: Literal[8, 4]
    group_size: int = 32

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        if self.bits not in (8, 4):
            raise ValueError(f"bits must be 8 or 4, but is {self.bits!r}.")
        if self.group_size not in GROUP_SIZES:
            raise ValueError(f"group_size must be one of {', '.join(map(str, GROUP_SIZES))}, but is {self.group_size}.")
        if self.bits == 8 and self.group_size != 32:
            raise ValueError("bits must be 4 for group_size to mean anything: 8 bits have a scale a row.")


class _Quantised(nn.Module):
    """What projections and tables of either width have in common.

    Attributes:
        is_quantised: True; other modules have no such attribute.
        computed_in: Dtype of what comes out where nothing else decides it.
    """

    is_quantised = True
    weight: nn.Parameter
    scales: nn.Parameter
    scales_and_zeros: nn.Parameter

    def __init__(self, outputs: int, inputs: int, group_size: int | None, dtype: torch.dtype, device: Any) -> None:
        super().__init__()
        self.group_size, self.computed_in = group_size, dtype
        if group_size is None:
            self._hold("weight", torch.empty(outputs, inputs, dtype=torch.int8, device=device))
            self._hold("scales", torch.empty(outputs, dtype=dtype, device=device))
        else:
            self._hold("weight", torch.empty(outputs, inputs // 2, dtype=torch.uint8, device=device))
            shape = (inputs // group_size, outputs, 2)
            self._hold("scales_and_zeros", torch.empty(shape, dtype=torch.bfloat16, device=device))

    def fill(self, weight: Float[Tensor, "outputs inputs"]) -> None:
        """Round a weight into this module."""
        self.computed_in = weight.dtype
        if self.group_size is None:
            values, scales = quantise_rows(weight)
            self._hold("weight", values)
            self._hold("scales", scales)
        else:
            values, both = quantise_groups(weight, self.group_size)
            self._hold("weight", self.laid_out(values))
            self._hold("scales_and_zeros", both)

    def laid_out(self, values: Tensor) -> Tensor:
        """Values of 4 bits as this module holds them."""
        return values

    def _hold(self, name: str, tensor: Tensor) -> None:
        setattr(self, name, nn.Parameter(tensor, requires_grad=False))


class QuantisedLinear(_Quantised):
    """A linear layer with a weight of 8 or 4 bits; a bias stays as it is.

    Args:
        inputs: Channels that it reads.
        outputs: Channels that it writes.
        bias: Whether it has a bias.
        group_size: Of 4 bits; None is 8 bits.
        dtype: Of scales and bias.
        device: Of all tensors.
    """

    def __init__(
        self, inputs: int, outputs: int, *, bias: bool, group_size: int | None, dtype: torch.dtype, device: Any
    ) -> None:
        super().__init__(outputs, inputs, group_size, dtype, device)
        self.in_features, self.out_features = inputs, outputs
        self.bias = nn.Parameter(torch.zeros(outputs, dtype=dtype, device=device), False) if bias else None
        if group_size is not None:
            # In memory a weight is in the order of this machine's kernel; in files it is in the order of its rows.
            self.register_load_state_dict_pre_hook(_pack_loaded)
            self.register_state_dict_post_hook(_unpack_saved)

    def laid_out(self, values: Tensor) -> Tensor:
        """In the order of the kernel."""
        return pack(values)

    def forward(self, x: Rows) -> Products:
        """Apply the layer."""
        if self.group_size is None:
            made = product_of_rows(x, self.weight, self.scales)
        else:
            made = product_of_groups(x, self.weight, self.scales_and_zeros)
        return made if self.bias is None else made + self.bias


class QuantisedEmbedding(_Quantised):
    """A table with rows of 8 or 4 bits, which a tied head multiplies by.

    Args:
        rows: Number of ids.
        channels: Width of a row.
        group_size: Of 4 bits; None is 8 bits.
        dtype: Of what is looked up.
        device: Of all tensors.
    """

    def __init__(self, rows: int, channels: int, *, group_size: int | None, dtype: torch.dtype, device: Any) -> None:
        super().__init__(rows, channels, group_size, dtype, device)
        self.num_embeddings, self.embedding_dim = rows, channels
        self._packed: list[tuple[Tensor, Tensor]] = []  # one object for this table and an engine's views of it

    def forward(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape channels"]:
        """Look up rows.

        Raises:
            IndexError: If an id is not in the table.
        """
        flat = ids.flatten()
        values = nn.functional.embedding(flat, self.weight)
        if self.group_size is None:
            made = dequantise_rows(values, self.scales[flat])
        else:
            made = dequantise_groups(values, self.scales_and_zeros[:, flat], self.computed_in)
        return made.unflatten(0, ids.shape)

    def project(self, x: Rows) -> Products:
        """``x @ table.T``, as a tied head."""
        if self.group_size is None:
            return product_of_rows(x, self.weight, self.scales)
        if not self._packed or self._packed[0][0] is not self.weight:
            self._packed[:] = [(self.weight, pack(self.weight))]
        return product_of_groups(x, self._packed[0][1], self.scales_and_zeros)


def _pack_loaded(module: QuantisedLinear, state: dict[str, Any], prefix: str, *_: Any) -> None:
    found: Tensor | None = state.get(f"{prefix}weight")
    if found is not None and found.device.type != "meta":
        if found.device.type != "cpu":
            raise ValueError(
                f"device must be 'cpu' for weights of 4 bits, but is {str(found.device)!r}: their kernel is one of "
                "CPUs. 8 bits run everywhere."
            )
        state[f"{prefix}weight"] = pack(found)


def _unpack_saved(module: QuantisedLinear, state: dict[str, Any], prefix: str, *_: Any) -> None:
    found: Tensor = state[f"{prefix}weight"]
    if found.device.type != "meta":
        state[f"{prefix}weight"] = unpack(found)


def quantise_layers(model: nn.Module, config: QuantisationConfig) -> list[str]:
    """Put quantised layers in the place of all linear layers and tables of a model; return the names of those that have
    8 bits because 4 bits do not fit their shape.

    A model on the meta device gets the layers without values.

    Raises:
        MismatchError: If a hook or a patched ``forward`` would be lost.
    """
    made: dict[int, _Quantised] = {}
    wide: list[str] = []
    for name, module in [*model.named_modules(remove_duplicate=False)]:
        if type(module) not in (nn.Linear, nn.Embedding):
            continue
        check_nothing_added("model", name, module)
        weight: Tensor = module.weight  # pyright: ignore[reportAssignmentType]
        fits = config.bits == 4 and fits_four_bits(weight.shape[0], weight.shape[1], config.group_size)
        if id(module) not in made:
            wide += [name] if config.bits == 4 and not fits else []
            made[id(module)] = _of(module, config.group_size if fits else None)
        holder, _, last = name.rpartition(".")
        setattr(model.get_submodule(holder), last, made[id(module)])
    return wide


def set_dtype(model: nn.Module, dtype: torch.dtype) -> None:
    """Say what quantised tables give, which whole numbers do not tell."""
    for module in model.modules():
        if isinstance(module, _Quantised):
            module.computed_in = dtype


def _of(module: nn.Module, group_size: int | None) -> _Quantised:
    """The quantised layer of a linear layer or a table."""
    weight: Tensor = module.weight  # pyright: ignore[reportAssignmentType]
    rows, columns = weight.shape
    options: Mapping[str, Any] = {"group_size": group_size, "dtype": weight.dtype, "device": weight.device}
    if isinstance(module, nn.Embedding):
        quantised: _Quantised = QuantisedEmbedding(rows, columns, **options)
    else:
        bias: Tensor | None = module.bias  # pyright: ignore[reportAssignmentType]
        quantised = QuantisedLinear(columns, rows, bias=bias is not None, **options)
        if bias is not None:
            quantised.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    if weight.device.type != "meta":
        quantised.fill(weight.detach())
    return quantised
