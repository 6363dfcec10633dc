"""Steps made ahead of time: a folder of AOTInductor packages or of an ONNX file, with which a server starts at once."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from retentive.engine.code import ExportedModel, parts_of
from retentive.engine.lookup import is_observed
from retentive.engine.onnx.file import BITS, write_step
from retentive.engine.onnx.steps import OnnxSteps, check_onnx
from retentive.engine.static.ring_steps import Program, RingSteps
from retentive.engine.static.rings import fill_rings
from retentive.engine.static.tensor_step import StepForm, step_in_rings, with_borders, with_marks
from retentive.errors import DamagedFileError, MismatchError
from retentive.files import (
    check_version,
    checksum,
    folder_written_atomically,
    read_checked_json,
    with_checksum,
    write_json,
)
from retentive.files.targets import check_folder_target
from retentive.models.fingerprint import weights_fingerprint
from retentive.models.protocol import LanguageModel, as_module
from retentive.private_apis import load_package, write_package
from retentive.state import ModelState, named_tensors

MANIFEST = "steps.json"
_VERSION = 4
FORMATS = ("aoti", "onnx")
"""Names of what can be exported."""

_ONE, _SEVERAL, _FILE = "one_row.pt2", "several_rows.pt2", "step.onnx"
_CURE = "export the model again: retentive export MODEL OUT --format {}"


class _ExportedStep(nn.Module):
    """`step_in_rings` of one form and one model."""

    def __init__(self, form: StepForm, model: nn.Module) -> None:
        super().__init__()
        self._form, self.model = form, model

    def forward(self, tokens: Tensor, clock: Tensor, tensors: list[Tensor]) -> Tensor:
        return step_in_rings(self._form, self.model, tokens, clock, tensors)


def export_steps(model: LanguageModel, folder: Path, *, format: str = "aoti", bits: int | None = None) -> None:
    """Write a model's step into a folder, to be run instead of the model's code.

    The folder holds the weights, too. ``aoti`` is compiled code, for one row and for several, on the model's device; it
    fits this release of torch and machines like this one. ``onnx`` is `write_step`'s file.

    Args:
        model: In eval mode afterwards.
        folder: Made; must not be there.
        format: One of `FORMATS`.
        bits: Round the weights of an ONNX file to 8 or 4 bits; None keeps them.

    Raises:
        ValueError: If the model has no steps that are functions of tensors, or the folder cannot be made.
        MismatchError: If a call of the model does more than its steps.
        ImportError: If ``onnx`` is wanted, and ``retentive[onnx]`` is not installed.
    """
    _check_format(format, bits)
    check_folder_target("out", folder)
    if folder.exists():
        raise ValueError(f"out must be a folder that is not there yet, but {folder} is: choose another one.")
    if format == "onnx":
        check_onnx(model)
    module = as_module(model.eval())
    if is_observed(module):
        raise MismatchError(
            "model must do nothing beside its steps to be exported, but a hook, a wrapper, a subclass or a patched "
            "forward acts in its calls: remove it, or run the model by engine='eager', which calls it."
        )
    with folder_written_atomically(folder) as unfinished:
        state = _first_state(model, 1)
        if format == "onnx":
            write_step(model, StepForm(model, state), state, unfinished / _FILE, bits, is_portable=True)
        else:
            _export(StepForm(model, state, is_compiled=True), module, state, unfinished / _ONE)
            state = _first_state(model, 3)
            _export(StepForm(model, state, is_compiled=True), module, state, unfinished / _SEVERAL)
        content = {
            "format_version": _VERSION,
            "format": format,
            "torch": torch.__version__,
            "device": model.device.type,
            "weights": weights_fingerprint(module),
            "parts": parts_of(module),
            "state": _form_of(state),
            "files": {path.name: checksum(path) for path in sorted(unfinished.iterdir())},
        }
        write_json(unfinished / MANIFEST, with_checksum(content))


def _check_format(format: str, bits: int | None) -> None:
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, but is {format!r}.")
    if bits is not None and (format != "onnx" or bits not in BITS):
        raise ValueError(f"bits must be 8 or 4, with format 'onnx', but is {bits} with format {format!r}.")


def _first_state(model: LanguageModel, rows: int) -> ModelState:
    """The state after one token, with marks.

    Raises:
        ValueError: If a border follows it.
    """
    bordered = with_borders(model, "exported")
    with torch.no_grad():
        state = model(torch.zeros(rows, 1, dtype=torch.long, device=model.device), logits_to_keep=0).state
    if bordered.tokens_within(state) == 0:
        raise ValueError(
            f"model must have segments or chunks of at least 3 tokens, the first of which reads a memory, for its "
            f"steps to be exported, but this {model.config.family} has a border after its first token."
        )
    return with_marks(state)


def _export(form: StepForm, model: nn.Module, state: ModelState, path: Path) -> None:
    """Write one package."""
    rings = fill_rings(named_tensors(state), form)
    tokens, clock = torch.zeros_like(state.position), torch.tensor(rings.clock, device=state.position.device)
    any_rows = {0: torch.export.Dim.AUTO} if state.batch_size > 1 else {}
    shapes: list[dict[int, Any]] = []
    for name in rings.tensors:
        growth = form.growing.get(name)
        grows = growth is not None and growth.longest is None
        shapes.append({**any_rows, **({growth.dim: torch.export.Dim.AUTO} if growth is not None and grows else {})})
    inputs = (tokens, clock, list(rings.tensors.values()))
    program = torch.export.export(
        _ExportedStep(form, model), inputs, dynamic_shapes=(any_rows, {}, shapes), strict=False
    )
    write_package(program, path)


def _form_of(state: ModelState) -> list[tuple[str, str]]:
    return [(name, str(tensor.dtype)) for name, tensor in named_tensors(state).items()]


class PackagedSteps(RingSteps):
    """Steps by the packages of a folder that `export_steps` wrote."""

    def __init__(self, model: LanguageModel, folder: Path, form: Sequence[tuple[str, str]], cure: str) -> None:
        """Open a folder; see `packaged_steps`.

        Args:
            model: The model that was exported; it reads prompts.
            folder: Of `export_steps`.
            form: Names and types of the state's tensors.
            cure: What to do where the model is no longer that of the folder.
        """
        super().__init__(model)
        self._exported = ExportedModel(model, folder, cure)
        self._folder, self._form = folder, form
        self._programs: dict[str, tuple[StepForm, Program]] = {}

    def begin(self) -> None:
        """Look whether the model is still the one that was exported.

        Raises:
            MismatchError: If it is not.
        """
        super().begin()
        self._exported.check()

    def program(self, state: ModelState) -> tuple[StepForm, Program]:
        """Return the package for states of this form.

        Raises:
            MismatchError: If the state has another form than the one that was exported.
        """
        if _form_of(state) != self._form:
            raise MismatchError(
                "state must have the tensors that the exported steps take, but others are there, such as neighbours "
                "that are being read; engine='compile' takes it."
            )
        name = _ONE if state.batch_size == 1 else _SEVERAL
        if name not in self._programs:
            package = load_package(self._folder / name)

            def run(_: StepForm, __: nn.Module, tokens: Tensor, clock: Tensor, tensors: list[Tensor]) -> Tensor:
                return cast("Tensor", package(tokens, clock, tensors))

            self._programs[name] = StepForm(self.model, state, is_compiled=True), run
        return self._programs[name]


def packaged_steps(model: LanguageModel, folder: Path) -> RingSteps:
    """Return steps by what `export_steps` wrote.

    Args:
        model: The model that was exported; it reads prompts.
        folder: Of `export_steps`.

    Raises:
        FileNotFoundError: If the folder holds no packages.
        MismatchError: If they are of other weights, of another device or of another release of torch.
        DamagedFileError: If a file is damaged or missing.
    """
    content = read_checked_json(folder / MANIFEST, cure=_CURE.format("aoti"))
    cure = _CURE.format(content["format"])
    check_version(content, folder / MANIFEST, _VERSION, cure=cure)
    for held, wanted in zip_longest(content["parts"], parts_of(as_module(model))):
        if held != wanted:
            raise MismatchError(f"{folder} must be of a model with these parts, {wanted}, but has {held}; {cure}.")
    is_onnx = content["format"] == "onnx"
    facts = (
        ("this release of torch", content["torch"], content["torch"] if is_onnx else torch.__version__),
        ("this device", content["device"], model.device.type),
        ("these weights", content["weights"], weights_fingerprint(as_module(model))),
    )
    for name, held, wanted in facts:
        if held != wanted:
            raise MismatchError(f"{folder} must be of {name}, {wanted}, but is of {held}; {cure}.")
    for name, digest in cast("Mapping[str, str]", content["files"]).items():
        if not (folder / name).is_file() or checksum(folder / name) != digest:
            raise DamagedFileError(f"{folder / name} is missing or damaged, as its checksum says: {cure}.")
    if is_onnx:
        return OnnxSteps(model, path=folder / _FILE, cure=cure)
    form = [(name, kind) for name, kind in cast("Sequence[tuple[str, str]]", content["state"])]
    return PackagedSteps(model, folder, form, cure)
