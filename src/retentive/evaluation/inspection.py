"""Inspect a saved model without its weights in memory: parameters by part, contents of the state, half-lives."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch

from retentive.checkpoints.manifest import read_manifest
from retentive.checkpoints.tensor_file import open_tensors
from retentive.evaluation.report.document import BarChart, Bars, Curve, LineChart, Report, Section, Table
from retentive.evaluation.report.pictures import short_bytes
from retentive.models.base import DecoderModel
from retentive.models.registry import build
from retentive.state import ModelState, named_tensors

CONTEXTS = (1, 16, 64, 256, 1024, 4096)
"""Tokens after which the state is measured."""

SEGMENTS = 16
"""Segments that are read at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some parameters: their place in the model, with ``*`` for the number of a block, and how many there are."""

    name: str
    parameters: int
    copies: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StatePart:
    """One part of the state.

    Attributes:
        name: Its place in the state, as in ``layers.0``; several that are alike stand together, as in ``layers.0-3``.
        holds: Names and shapes of its tensors after the longest context, for one row.
        sizes: Bytes for one row after each context.
        grows: Whether a longer text always makes it larger.
    """

    name: str
    holds: str
    sizes: tuple[int, ...]
    grows: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What `inspect_model` finds.

    Attributes:
        family: Its family.
        dtype: Of its weights.
        parts: Its parameters.
        weight_bits: Bits of a rounded weight in its linear layers and tables; None where weights are floats.
        contexts: Tokens read before the state was measured.
        state_bytes: Size of the whole state for one row after each context.
        carried: The parts of the state.
        half_lives: Tokens after which each head of the first retention layer has forgotten half; infinite where it
            never does. None without retention.
    """

    family: str
    dtype: torch.dtype
    parts: tuple[Part, ...]
    contexts: tuple[int, ...]
    state_bytes: tuple[int, ...]
    carried: tuple[StatePart, ...]
    half_lives: tuple[float, ...] | None
    weight_bits: int | None = None

    @property
    def parameters(self) -> int:
        """Number of all parameters."""
        return sum(part.parameters for part in self.parts)

    def sections(self) -> tuple[Section, ...]:
        """The findings as sections of a report."""
        parts = Table(
            title="Parameters by part",
            columns=("part", "copies", "parameters", "share"),
            rows=tuple(
                (part.name, f"{part.copies}", f"{part.parameters:,}", f"{part.parameters / self.parameters:.1%}")
                for part in self.parts
            ),
            caption=f"{self.parameters:,} parameters in {str(self.dtype).removeprefix('torch.')}.",
        )
        state = LineChart(
            title="State size against context length",
            x_label="tokens read before",
            y_label="state per sequence",
            curves=(
                Curve(name=self.family, x=tuple(map(float, self.contexts)), y=tuple(map(float, self.state_bytes))),
            ),
            x_scale="log",
            y_scale="log",
            y_unit="bytes",
            caption="What is carried from token to token, and saved to go on later. Counted, not timed.",
        )
        layers = Table(
            title="Which layers carry what",
            columns=("part of the state", "holds", "bytes", "with more text"),
            rows=tuple(
                (part.name, part.holds, short_bytes(float(part.sizes[-1])), "grows" if part.grows else "stays")
                for part in self.carried
            ),
            caption=f"For one sequence, after {self.contexts[-1]:,} tokens.",
        )
        return (parts, state, layers, *self._half_life_chart())

    def _half_life_chart(self) -> tuple[BarChart, ...]:
        lives = [(head, life) for head, life in enumerate(self.half_lives or ()) if math.isfinite(life)]
        if not lives:
            return ()
        endless = len(self.half_lives or ()) - len(lives)
        left_out = f" {endless} heads that never forget are left out." if endless else ""
        return (
            BarChart(
                title="Half-lives of the heads",
                y_label="tokens until half is forgotten",
                groups=tuple(f"head {head}" for head, _ in lives),
                bars=(Bars(name=self.family, heights=tuple(life for _, life in lives), errors=(None,) * len(lives)),),
                caption=f"ln 2 / -ln(gamma), the same in every layer.{left_out}",
            ),
        )

    def report(self) -> Report:
        """The findings as one page."""
        return Report(
            title=f"A {self.family} from the inside",
            summary=(
                f"{self.parameters:,} parameters. One sequence carries "
                f"{short_bytes(float(self.state_bytes[-1]))} after {self.contexts[-1]:,} tokens."
            ),
            sections=self.sections(),
            facts=(),
        )

    def lines(self) -> list[str]:
        """The findings as lines for a terminal."""
        kind = str(self.dtype).removeprefix("torch.")
        held = f"in {kind}" if self.weight_bits is None else f"of {self.weight_bits} bits, computed in {kind}"
        lines = [f"{self.family}, {self.parameters:,} parameters {held}"]
        width = max(len(part.name) for part in (*self.parts, *self.carried)) + 2
        lines += ["", f"  {'part':<{width}}{'copies':>8}{'parameters':>16}"]
        lines += [f"  {part.name:<{width}}{part.copies:>8}{part.parameters:>16,}" for part in self.parts]
        lines += ["", f"  {'tokens read before':<{width}}{'state':>12}"]
        sizes = zip(self.contexts, self.state_bytes, strict=True)
        lines += [f"  {f'{context:,}':<{width}}{short_bytes(float(size)):>12}" for context, size in sizes]
        lines += ["", f"  {'part of the state':<{width}}{'bytes':>12}  holds"]
        for part in self.carried:
            growth = ", grows" if part.grows else ""
            lines.append(f"  {part.name:<{width}}{short_bytes(float(part.sizes[-1])):>12}  {part.holds}{growth}")
        if self.half_lives is not None:
            lives = ", ".join("never" if math.isinf(life) else f"{life:.0f}" for life in self.half_lives)
            lines += ["", f"  half of what a head remembers is forgotten after (tokens): {lives}"]
        return lines


def inspect_model(folder: Path | str, contexts: Sequence[int] = CONTEXTS) -> Inspection:
    """Inspect a saved model; no weight is read.

    Args:
        folder: The model's folder.
        contexts: Tokens after which the state is measured, in increasing order. A model with learned positions is
            measured up to the last of them, one that reads segments up to 16 of them: its state grows no further.

    Raises:
        FileNotFoundError: If the folder holds no model.
        DamagedFileError: If a file is missing or damaged.
        MismatchError: If the model is of another version.
    """
    manifest = read_manifest(folder)
    quantisation = manifest.quantisation
    with open_tensors(Path(folder) / manifest.weights_file) as reader:
        dtype = reader.floating_dtype()
    with torch.device("meta"):
        model = build(manifest.config).to(dtype if quantisation is None else manifest.computed_in).eval()
    within = tuple(context for context in contexts if context <= _reach(model))
    states = [_state_after(model, context) for context in within]
    return Inspection(
        family=model.config.family,
        dtype=dtype if quantisation is None else manifest.computed_in,
        weight_bits=None if quantisation is None else quantisation.bits,
        parts=_parts(model),
        contexts=within,
        state_bytes=tuple(state.size_in_bytes for state in states),
        carried=_carried(states, begins_again=hasattr(model.config, "segment_length")),
        half_lives=next(filter(None, (mixer.half_lives for mixer in model.config.decoder.mixers)), None),
    )


def _reach(model: DecoderModel) -> float | int:
    """The longest text worth measuring, in tokens."""
    longest, segment = model.longest_text, getattr(model.config, "segment_length", None)
    reach = math.inf if longest is None else longest
    return reach if segment is None else min(reach, SEGMENTS * segment)


@torch.no_grad()
def _state_after(model: DecoderModel, context: int) -> ModelState:
    """The state's shapes after so many tokens: on the meta device nothing is computed."""
    tokens = torch.zeros(1, context, dtype=torch.long, device="meta")
    try:
        return model(tokens, logits_to_keep=0).state
    except NotImplementedError:  # the model's control flow depends on values: run it on the CPU with arbitrary weights
        return model.to_empty(device="cpu")(tokens.new_zeros(tokens.shape, device="cpu"), logits_to_keep=0).state
    finally:
        model.to("meta")


def _parts(model: DecoderModel) -> tuple[Part, ...]:
    """Count parameters by module, equal modules of different blocks together."""
    names: dict[str, list[int]] = {}
    owners: dict[str, set[str]] = {}
    for name, parameter in model.named_parameters():
        owner = ".".join(name.split(".")[:-1][:4]) or name
        part = re.sub(r"(?<=\.)\d+(?=\.|$)", "*", owner)
        names.setdefault(part, []).append(parameter.numel())
        owners.setdefault(part, set()).add(owner)
    return tuple(Part(name=name, parameters=sum(sizes), copies=len(owners[name])) for name, sizes in names.items())


def _carried(states: Sequence[ModelState], *, begins_again: bool) -> tuple[StatePart, ...]:
    """Group the parts of the state; equal parts that follow one another become one entry.

    A part that begins anew with each segment does not count as growing, even if it is largest after the longest text.
    """
    places = [(place, _holds(states[-1], place)) for place in _places(states[-1])]
    found: list[StatePart] = []
    for (stem, holds), group in groupby(places, key=lambda entry: (re.sub(r"\.\d+$", "", entry[0]), entry[1])):
        names = [place for place, _ in group]
        numbers = [name.removeprefix(f"{stem}.") for name in names]
        name = names[0] if len(names) == 1 else f"{stem}.{numbers[0]}-{numbers[-1]}"
        sizes = tuple(sum(_size(state, place) for place in names) for state in states)
        grows = not begins_again and len(sizes) > 1 and sizes[-1] > max(sizes[:-1])
        found.append(StatePart(name=name, holds=holds, sizes=sizes, grows=grows))
    return tuple(found)


def _places(state: ModelState) -> list[str]:
    """Names of the state's fields; each member of a field that holds several has its own name."""
    return list(dict.fromkeys(re.match(r"\w+(\.\d+)?", name)[0] for name in named_tensors(state)))  # type: ignore[index]


def _of(state: ModelState, place: str) -> dict[str, torch.Tensor]:
    return {
        name: tensor for name, tensor in named_tensors(state).items() if name == place or name.startswith(f"{place}.")
    }


def _size(state: ModelState, place: str) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in _of(state, place).values())


def _holds(state: ModelState, place: str) -> str:
    parts: list[str] = []
    for name, tensor in _of(state, place).items():
        shape = "x".join(map(str, tensor.shape[1:])) or "1"
        parts.append(f"{name.removeprefix(place).lstrip('.')} {shape}".strip())
    return ", ".join(parts)
