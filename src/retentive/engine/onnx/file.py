"""A model's step as an ONNX file, with the state in and out."""

import logging
import warnings
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor, nn

from retentive.engine.onnx.context import OnnxruntimeContext
from retentive.engine.onnx.translations import translations
from retentive.engine.static.context import RingContext
from retentive.engine.static.rings import fill_rings
from retentive.engine.static.tensor_step import StepForm, step_in_rings
from retentive.models.protocol import LanguageModel, as_module
from retentive.state import ModelState, named_tensors

BITS = (8, 4)
"""To which weights can be rounded."""

_BLOCKS = {8: (64, 32), 4: (32,)}
"""By bits: weights that may share a scale, the fastest number first; llama.cpp's Q8_0 and Q4_0 have 32.

With 128, 8 bits cost SmolLM2 up to 0.51% of its bits per byte: activations are rounded in the same blocks.
"""

_PADDED = 1.125
"""Of its weights a file may hold so many where inputs are filled up to whole blocks."""

_IN_PLACE = ("LinearAttention",)
"""Operators whose kernels in onnxruntime may write their result over a state, which makes them faster."""

WRITTEN_OVER = "written_over"
"""Key in a file's metadata: names of the tensors whose next values may stand in the same memory, one a line."""

_LARGEST = 1 << 30
"""Bytes of weights in one file; more go into a second one beside it: Protocol Buffers have at most 2 GB."""


class _StepWithState(nn.Module):
    """`step_in_rings` with the state in and out, for runtimes that write over no input."""

    def __init__(self, form: StepForm, model: nn.Module, context: type[RingContext]) -> None:
        super().__init__()
        self._form, self.model, self._context = form, model, context

    def forward(self, tokens: Tensor, clock: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        held = [tensor.clone() for tensor in tensors]
        return step_in_rings(self._form, self.model, tokens, clock.clone(), held, self._context), *held


def write_step(
    model: LanguageModel,
    form: StepForm,
    state: ModelState,
    path: Path,
    bits: int | None = None,
    *,
    is_portable: bool = False,
) -> None:
    """Write a model's step as an ONNX file for any number of rows.

    Inputs are ``tokens`` (one of each row), ``clock`` (the number of the token, where caches are there) and the tensors
    of the state by name; outputs are ``logits`` and, with ``next_`` before its name, each tensor of the next state.
    Entries that grow with every token stand in rings: that of the token with number ``clock`` at ``clock % size``.
    The file's metadata names the tensors that may be written over, see `WRITTEN_OVER`.

    Args:
        model: In eval mode, on the CPU, in float32.
        form: Of the state.
        state: From which the model can step, with marks; its sizes are the file's, but for rows and caches.
        path: Of the file.
        bits: Round the weights of products to 8 or 4 bits, in blocks with a scale each (``MatMulNBits``); None keeps
            them.
        is_portable: Without operators that only onnxruntime has, where the weights are not rounded.
    """
    context = RingContext if is_portable and bits is None else OnnxruntimeContext
    rings = fill_rings(named_tensors(state.select(torch.zeros(3, dtype=torch.long))), form)
    rows, entries = {0: torch.export.Dim.AUTO}, torch.export.Dim("entries")  # one number: rings without end are alike
    shapes: list[dict[int, Any]] = []
    for name in rings.tensors:
        growth = form.growing.get(name)
        is_endless = growth is not None and growth.longest is None
        shapes.append({**rows, **({growth.dim: entries} if growth is not None and is_endless else {})})
    with torch.inference_mode(False), torch.no_grad(), _quiet():
        tensors = [tensor.clone() for tensor in rings.tensors.values()]
        program = torch.onnx.export(
            _StepWithState(form, as_module(model), context).eval(),
            (torch.zeros(3, dtype=torch.long), torch.tensor(rings.clock), *tensors),
            dynamo=True,
            input_names=["tokens", "clock", *form.names],
            output_names=["logits", *(f"next_{name}" for name in form.names)],
            dynamic_shapes=(rows, {}, tuple(shapes)),
            custom_translation_table=translations(),
            verbose=False,
        )
    graph: Any = cast("Any", program).model
    graph.metadata_props[WRITTEN_OVER] = "\n".join(name for name in form.names if _is_written_once(graph.graph, name))
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    cast("Any", program).save(str(path), external_data=weights > _LARGEST)
    if bits is not None:
        _round_weights(path, bits)


def _is_written_once(graph: Any, name: str) -> bool:
    """Whether only the operator that writes a tensor's next value reads its numbers: none is read too late."""
    before = next((value for value in graph.inputs if value.name == name), None)
    after = next(value for value in graph.outputs if value.name == f"next_{name}")
    writer = after.producer()
    if before is None or writer is None or writer.op_type not in _IN_PLACE:
        return False
    return [use.node for use in before.uses() if use.node.op_type != "Shape"] == [writer]


def _round_weights(path: Path, bits: int) -> None:
    onnx: Any = import_module("onnx")
    with _own_logging():
        quantization: Any = import_module("onnxruntime.quantization.matmul_nbits_quantizer")
    model: Any = import_module("onnxruntime.quantization.onnx_model").ONNXModel(onnx.load(str(path)))
    _part_shared_weights(model.model.graph)
    model.replace_gemm_with_matmul()
    block = _block_size(model.model.graph, bits)
    # accuracy_level=4: products of whole numbers, for which activations are rounded to 8 bits in blocks as well.
    quantizer = quantization.MatMulNBitsQuantizer(
        model.model, bits=bits, block_size=block, is_symmetric=True, accuracy_level=4
    )
    quantizer.process()
    weights = path.with_name(f"{path.name}.data")
    is_split = weights.exists()
    weights.unlink(missing_ok=True)  # its weights are in memory, and new ones would be written behind them
    quantizer.model.save_model_to_file(str(path), use_external_data_format=is_split)


def _block_size(graph: Any, bits: int) -> int:
    """The fastest block for which products' inputs are hardly filled up, weight by weight."""
    weights = {weight.name: weight.dims for weight in graph.initializer if len(weight.dims) == 2}
    products = (node.input[1] for node in graph.node if node.op_type == "MatMul")
    shapes = [weights[name] for name in products if name in weights]
    numbers = sum(inputs * outputs for inputs, outputs in shapes)
    for block in _BLOCKS[bits]:
        if sum(-(-inputs // block) * block * outputs for inputs, outputs in shapes) <= _PADDED * numbers:
            return block
    return _BLOCKS[bits][-1]


def _part_shared_weights(graph: Any) -> None:
    """Give products copies of the weights that others read too: a tied head's is to be turned and rounded."""
    readers = Counter(name for node in graph.node for name in node.input)
    weights = {weight.name: weight for weight in graph.initializer}
    for node in graph.node:
        if node.op_type == "Gemm" and readers[node.input[1]] > 1 and node.input[1] in weights:
            copied = graph.initializer.add()
            copied.CopyFrom(weights[node.input[1]])
            copied.name = f"{node.output[0]}.{node.input[1]}"
            node.input[1] = copied.name


@contextmanager
def _quiet() -> Generator[None]:
    """Leave out what torch's exporter says of packages that it would not need, and of its own old functions."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.filterwarnings("ignore", "# The axis name", UserWarning)  # several tensors have it, as they should
            yield
    finally:
        log.setLevel(level)


@contextmanager
def _own_logging() -> Generator[None]:
    """Undo what a module does to the logging of the whole process when it is imported."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def runtime() -> ModuleType:
    """Return onnxruntime, where all that the export needs is there, too.

    Raises:
        ImportError: If a package is not installed.
    """
    try:
        for name in ("onnx", "onnxscript"):
            import_module(name)
        return import_module("onnxruntime")
    except ImportError as error:
        raise ImportError(
            f"engine 'onnx' needs the package {error.name}, which is not installed: pip install 'retentive[onnx]'."
        ) from error
