"""A state that onnxruntime steps: over itself where the file allows it, and in two memories by turns elsewhere."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from retentive.engine.onnx.file import WRITTEN_OVER, runtime
from retentive.engine.static.tensor_step import StepForm


class OnnxProgram:
    """A file of `write_step` in memory.

    Attributes:
        session: Of onnxruntime.
    """

    def __init__(self, path: Path, threads: int) -> None:
        """Read the file.

        Args:
            path: Of the file.
            threads: That one product may take.
        """
        onnxruntime: Any = runtime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that wait for work would take the processor from torch's.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # its warnings are of how the file could be smaller
        self.session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._sizes: dict[str, Sequence[int | str]] = {node.name: node.shape for node in self.session.get_inputs()}
        found: dict[str, str] = self.session.get_modelmeta().custom_metadata_map
        self._written_over = frozenset(found.get(WRITTEN_OVER, "").splitlines())
        self._outputs = {node.name for node in self.session.get_outputs()}

    def takes(self, names: Sequence[str], tensors: Sequence[Tensor]) -> bool:
        """Whether these are the state's tensors, in the sizes that the file leaves no choice of."""
        if self._outputs != {"logits", *(f"next_{name}" for name in names)}:
            return False
        for name, tensor in zip(names, tensors, strict=True):
            sizes = self._sizes.get(name, tensor.shape)
            if any(isinstance(size, int) and size != here for size, here in zip(sizes, tensor.shape, strict=True)):
                return False
        return True

    def run(self) -> "OnnxRun":
        """Return a `retentive.engine.static.ring_steps.Program` for one state."""
        return OnnxRun(self.session, frozenset(self._sizes), self._written_over)


class OnnxRun:
    """Steps one state in rings. Only `settle` brings it to where the caller's tensors are."""

    def __init__(self, session: Any, inputs: frozenset[str], written_over: frozenset[str]) -> None:
        """Take a session, the names of what it reads, and those of the tensors that it may write over."""
        self._session, self._inputs, self._written_over = session, inputs, written_over
        self._turns: list[Any] = []
        self._memories: list[list[Tensor]] = []
        self._logits: Tensor | None = None
        # The address of tensors without numbers, which have none.
        self._nothing = torch.empty(1, dtype=torch.float32, device="cpu")

    def __call__(
        self, form: StepForm, model: nn.Module, tokens: Tensor, clock: Tensor, tensors: list[Tensor]
    ) -> Tensor:
        """Read a token of each row; see `step_in_rings`. ``tokens``, ``clock`` and ``tensors`` stay where they are."""
        if not self._turns:
            self._bind(form, tokens, clock, tensors)
        assert self._logits is not None
        self._session.run_with_iobinding(self._turns[0])
        self._swap()
        clock.add_(1)
        return self._logits.clone()

    def settle(self, tensors: Sequence[Tensor]) -> None:
        """Copy the state into the tensors of the steps before, unless it stands there."""
        if self._memories and any(held is not there for held, there in zip(self._memories[0], tensors, strict=True)):
            for held, there in zip(*self._memories, strict=True):
                if held is not there:
                    there.copy_(held)
            self._swap()

    def _swap(self) -> None:
        """The next step reads what this one wrote, and writes over what it read."""
        self._turns.reverse()
        self._memories.reverse()

    def _bind(self, form: StepForm, tokens: Tensor, clock: Tensor, tensors: list[Tensor]) -> None:
        vocab = next(node.shape[1] for node in self._session.get_outputs() if node.name == "logits")
        self._logits = torch.empty(tokens.shape[0], vocab, dtype=torch.float32, device="cpu")
        other = [
            tensor if name in self._written_over else torch.empty_like(tensor)
            for name, tensor in zip(form.names, tensors, strict=True)
        ]
        self._memories = [tensors, other]
        for before, after in (self._memories, self._memories[::-1]):
            binding = self._session.io_binding()
            for name, tensor in zip(("tokens", "clock", *form.names), (tokens, clock, *before), strict=True):
                if name in self._inputs:
                    binding.bind_input(*self._place(name, tensor))
            outputs = ("logits", *(f"next_{name}" for name in form.names))
            for name, tensor in zip(outputs, (self._logits, *after), strict=True):
                binding.bind_output(*self._place(name, tensor))
            self._turns.append(binding)

    def _place(self, name: str, tensor: Tensor) -> tuple[Any, ...]:
        """What a binding needs to know of a tensor."""
        kind = tensor.new_empty(0).numpy().dtype.type
        return name, "cpu", 0, kind, tuple(tensor.shape), tensor.data_ptr() or self._nothing.data_ptr()
