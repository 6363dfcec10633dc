"""Steps by onnxruntime, from a file that is made when they begin or was made before."""

from pathlib import Path
from tempfile import TemporaryDirectory
from weakref import WeakKeyDictionary

import torch
from torch import nn

from retentive.engine.code import ExportedModel, code_of
from retentive.engine.lookup import weight_versions
from retentive.engine.onnx.file import runtime, write_step
from retentive.engine.onnx.run import OnnxProgram, OnnxRun
from retentive.engine.static.ring_steps import Program, RingSteps
from retentive.engine.static.rings import fill_rings
from retentive.engine.static.tensor_step import StepForm
from retentive.errors import DamagedFileError, MismatchError
from retentive.models.fingerprint import weights_fingerprint
from retentive.models.protocol import LanguageModel, as_module
from retentive.state import ModelState, named_tensors

Key = tuple[object, ...]

_PROGRAMS: WeakKeyDictionary[nn.Module, dict[Key, OnnxProgram]] = WeakKeyDictionary()
"""What was exported of each model that is still there; programs do not hold their model."""


class OnnxSteps(RingSteps):
    """Steps of which onnxruntime takes those between borders of segments and chunks.

    A file is made of the weights and parts that the model has when steps begin, once for each form of a state, and kept
    in memory as long as the model. Prompts are read by the model, in float32.
    """

    def __init__(
        self, model: LanguageModel, *, bits: int | None = None, path: Path | None = None, cure: str = ""
    ) -> None:
        """Take a model; nothing is exported before the first step.

        Args:
            model: Of a family without neighbours, in float32 on the CPU.
            bits: Round the weights of products to 8 or 4 bits; None keeps them.
            path: A file of `write_step`, to run instead of making one.
            cure: What to do where the model is no longer the one of that file.

        Raises:
            ValueError: If onnxruntime cannot run the model's steps.
            ImportError: If ``retentive[onnx]`` is not installed.
        """
        check_onnx(model)
        super().__init__(model)
        self._bits, self._path = bits, path
        self._exported = None if path is None else ExportedModel(model, path.parent, cure)
        self._programs: dict[int, OnnxProgram] = {}
        self._forms: dict[Key, StepForm] = {}
        self._weights: Key = ()

    def begin(self) -> None:
        """Look whether weights and parts are still those that were exported."""
        super().begin()
        module = as_module(self.model)
        if self._exported is not None:
            self._exported.check()
        # Versions tell of any write that torch counts; the fingerprint tells of others, such as those to `.data`.
        self._weights = (weight_versions(module), weights_fingerprint(module), code_of(module))

    def value(self, state: ModelState) -> ModelState:
        """See `RingSteps.value`."""
        if self._running is not None and isinstance(self._running.program, OnnxRun):
            self._running.program.settle(list(self._running.rings.tensors.values()))
        return super().value(state)

    def program(self, state: ModelState) -> tuple[StepForm, Program]:
        """Return a run of the file for states of this form.

        Raises:
            MismatchError: If the file was made before, and of another form.
            DamagedFileError: If it cannot be read.
        """
        kinds = tuple((name, tensor.dtype) for name, tensor in named_tensors(state).items())
        if kinds not in self._forms:
            self._forms[kinds] = StepForm(self.model, state)
        form = self._forms[kinds]
        threads = 1 if state.batch_size < self._rows_worth_sharing else torch.get_num_threads()
        make = self._made if self._path is None else self._read
        return form, make(form, state, threads).run()

    def _made(self, form: StepForm, state: ModelState, threads: int) -> OnnxProgram:
        """The program of the model's weights, which is made if there is none."""
        sizes = tuple(
            (name, tensor.dtype, _fixed_sizes(form, name, tensor)) for name, tensor in named_tensors(state).items()
        )
        programs = _PROGRAMS.setdefault(as_module(self.model), {})
        for stale in [key for key in programs if key[0] != self._weights]:
            del programs[stale]
        key = (self._weights, self._bits, threads, sizes)
        if key not in programs:
            with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                path = Path(folder) / "step.onnx"
                write_step(self.model, form, state, path, self._bits)
                programs[key] = OnnxProgram(path, threads)
        return programs[key]

    def _read(self, form: StepForm, state: ModelState, threads: int) -> OnnxProgram:
        """The program of the file."""
        assert self._path is not None
        if threads not in self._programs:
            try:
                self._programs[threads] = OnnxProgram(self._path, threads)
            except Exception as error:  # onnxruntime has a class of its own for each of its errors
                cure = "export the model again: retentive export MODEL OUT --format onnx"
                raise DamagedFileError(f"{self._path} cannot be read by onnxruntime ({error}): {cure}.") from error
        program = self._programs[threads]
        if not program.takes(form.names, list(fill_rings(named_tensors(state), form).tensors.values())):
            raise MismatchError(
                "state must have the tensors and sizes that the exported steps take, but has others, such as hidden "
                "states that are recalled from segment to segment; engine='onnx' takes it."
            )
        return program


def _fixed_sizes(form: StepForm, name: str, tensor: torch.Tensor) -> tuple[int, ...]:
    """Sizes of a tensor that a file leaves no choice of."""
    varying = {0} | ({form.growing[name].dim} if name in form.growing else set())
    return tuple(size for dim, size in enumerate(tensor.shape) if dim not in varying)


def check_onnx(model: LanguageModel) -> None:
    """Validate that onnxruntime can run a model's steps.

    Raises:
        ValueError: If it cannot.
        ImportError: If ``retentive[onnx]`` is not installed.
    """
    name = type(model).__name__
    if model.chunked_reading is not None:
        raise ValueError(
            f"engine 'onnx' runs models whose state has one form, but {name} reads neighbours, whose number differs "
            "from chunk to chunk; engine='compile' runs it."
        )
    if getattr(model, "quantisation", None) is not None:
        raise ValueError(
            "engine 'onnx' rounds weights itself, but the model's are rounded already; give it the model of floats, "
            "and choose engine='onnx-int8' or 'onnx-int4'."
        )
    kinds = {parameter.dtype for parameter in model.parameters()}
    if kinds != {torch.float32}:
        found = ", ".join(sorted(map(str, kinds)))
        raise ValueError(f"engine 'onnx' runs weights in float32, but the model's are in {found}: call model.float().")
    if model.device.type != "cpu":
        raise ValueError(f"engine 'onnx' runs on the CPU, but the model is on {model.device}: call model.cpu().")
    runtime()
