"""Measurements as sections of a report. All take results by the models' names, in the order they are shown."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from retentive.evaluation.measures.bits_per_byte import BitsPerByte
from retentive.evaluation.measures.loss_by_position import LossByPosition
from retentive.evaluation.measures.speed import SpeedPoint, SpeedReport
from retentive.evaluation.report.document import BarChart, Bars, Curve, LineChart, Table
from retentive.training.metrics.log import read_metrics

_POINTS = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class LossHistory:
    """The loss of one model over training.

    Attributes:
        tokens: Tokens read until each measurement, growing.
        nats_per_token: Mean loss of the training batches since the measurement before.
    """

    tokens: tuple[float, ...]
    nats_per_token: tuple[float, ...]


def read_loss_history(metrics: Path, *, tokens_per_step: int) -> LossHistory:
    """The history of a run from its ``metrics.jsonl``.

    Args:
        metrics: The file.
        tokens_per_step: Tokens that a step reads; see `DataConfig.tokens_per_step`.
    """
    lines = read_metrics(metrics, "train")
    return LossHistory(
        tokens=tuple(float(line["step"] * tokens_per_step) for line in lines),
        nats_per_token=tuple(float(line["loss"]) for line in lines),
    )


def training_chart(histories: Mapping[str, LossHistory]) -> LineChart:
    """Loss over training; long histories are averaged down to 80 points, which the caption says."""
    longest = max((len(history.tokens) for history in histories.values()), default=0)
    width = max(1, -(-longest // _POINTS))
    curves = tuple(_averaged(name, history, width) for name, history in histories.items())
    each = "" if width == 1 else f" Each point is the mean of {width} measurements; the band is their range."
    return LineChart(
        title="Loss over training",
        x_label="tokens read",
        y_label="loss (nats per token)",
        curves=curves,
        caption=f"Training loss, before each batch is learned from. Lower is better.{each}",
    )


def _averaged(name: str, history: LossHistory, width: int) -> Curve:
    groups = [
        (history.tokens[begin : begin + width][-1], history.nats_per_token[begin : begin + width])
        for begin in range(0, len(history.tokens), width)
    ]
    return Curve(
        name=name,
        x=tuple(tokens for tokens, _ in groups),
        y=tuple(sum(losses) / len(losses) for _, losses in groups),
        low=None if width == 1 else tuple(min(losses) for _, losses in groups),
        high=None if width == 1 else tuple(max(losses) for _, losses in groups),
    )


def bits_per_byte_chart(results: Mapping[str, Sequence[BitsPerByte]]) -> BarChart:
    """Bits per byte, one group for each way of measuring that all models were measured by.

    Raises:
        ValueError: If the models share no way of measuring.
    """
    ways = [way for way in ("windows", "one_pass") if all(_by_way(found, way) for found in results.values())]
    if not results or not ways:
        raise ValueError("results must have a method that all models were measured by, but have none.")
    found = {name: [_by_way(measured, way) for way in ways] for name, measured in results.items()}
    shown = {name: [result for result in measured if result is not None] for name, measured in found.items()}
    first = next(iter(shown.values()))
    return BarChart(
        title="Bits per byte of held-out text",
        y_label="bits per byte",
        groups=tuple(_way_name(result) for result in first),
        bars=tuple(
            Bars(
                name=name,
                heights=tuple(result.bits_per_byte for result in measured),
                errors=tuple(result.standard_error for result in measured),
            )
            for name, measured in shown.items()
        ),
        caption=(
            f"Lower is better; 8 is what bytes take without a model. Over {first[0].coverage}: "
            f"{first[0].tokens:,} tokens that stand for {first[0].bytes:,} bytes, each scored once. Error bars are one "
            "standard error, from the differences between documents; all models read the same documents, so their "
            "differences are surer than each bar alone. Windows begin with an empty memory; in one pass the state is "
            "carried through each document."
        ),
    )


def _by_way(results: Sequence[BitsPerByte], way: str) -> BitsPerByte | None:
    return next((result for result in results if result.method == way), None)


def _way_name(result: BitsPerByte) -> str:
    if result.method == "one_pass":
        return "one pass"
    return f"windows of {result.window:,}\n(stride {result.stride:,})"


def position_chart(results: Mapping[str, LossByPosition], *, training_window: int | None = None) -> LineChart:
    """Loss by position.

    Args:
        results: By model.
        training_window: Tokens of the windows that the models were trained on, for the caption; None says nothing.
    """
    curves: list[Curve] = []
    for name, result in results.items():
        errors = [bucket.standard_error or 0.0 for bucket in result.buckets]
        means = [bucket.nats_per_token for bucket in result.buckets]
        curves.append(
            Curve(
                name=name,
                x=tuple(float(bucket.first) for bucket in result.buckets),
                y=tuple(means),
                low=tuple(mean - error for mean, error in zip(means, errors, strict=True)),
                high=tuple(mean + error for mean, error in zip(means, errors, strict=True)),
            )
        )
    buckets = next(iter(results.values())).buckets if results else ()
    trained = "" if training_window is None else f" Training windows were {training_window:,} tokens long."
    few = "".join(
        f" From {bucket.first:,} on: {bucket.tokens:,} tokens of {bucket.documents:,} documents."
        for bucket in buckets[-1:]
    )
    return LineChart(
        title="Loss by position",
        x_label="tokens read before, in the document (at least)",
        y_label="loss (nats per token)",
        curves=tuple(curves),
        x_scale="log",
        caption=(
            f"Mean loss of tokens by how many were read before them, in buckets that double.{trained} Error bars are "
            "one standard error, from the differences between documents (none where a bucket has one document). Far "
            f"buckets hold long documents only, so compare models, not ends of a curve.{few}"
        ),
    )


def _by_model(report: SpeedReport) -> dict[str, list[SpeedPoint]]:
    names = list(dict.fromkeys(point.model for point in report.points))
    return {name: [point for point in report.points if point.model == name] for name in names}


def _curves(report: SpeedReport, value: Callable[[SpeedPoint], float]) -> tuple[Curve, ...]:
    """A curve for each model: a value of its points over their contexts."""
    return tuple(
        Curve(name=name, x=tuple(float(point.context) for point in points), y=tuple(map(value, points)))
        for name, points in _by_model(report).items()
    )


def prefill_chart(report: SpeedReport) -> LineChart:
    """Speed of reading against the length of what is read."""
    return LineChart(
        title="Reading speed against length",
        x_label="tokens read in one call",
        y_label="tokens per second",
        curves=_curves(report, lambda point: point.prefill_tokens_per_second),
        x_scale="log",
        y_from_zero=True,
        caption=(
            f"Prefill of random tokens from an empty memory, with the logits of the last one, batch "
            f"{report.batch_size}, on {_place(report)}. Higher is better. Medians of {_span(report, 'prefill_runs')} "
            "runs."
        ),
    )


def speed_charts(report: SpeedReport) -> tuple[LineChart, LineChart]:
    """Decode speed and state size against context length."""
    left_out = "".join(
        f" {missed.model} at {missed.context:,} was left out: it would take about {missed.expected_seconds:.0f} s."
        for missed in report.left_out
    )
    speed = LineChart(
        title="Decode speed against context length",
        x_label="tokens read before",
        y_label="tokens per second",
        curves=tuple(_speed_curve(name, measured) for name, measured in _by_model(report).items()),
        x_scale="log",
        y_from_zero=True,
        caption=(
            f"One token at a time, batch {report.batch_size}, on {_place(report)}. Higher is better. Medians of "
            f"{_span(report, 'decode_turns')} turns of {report.tokens_per_turn} tokens, all models and contexts taking "
            f"turns; bars show the slowest and the fastest turn.{left_out}"
        ),
    )
    size = LineChart(
        title="State size against context length",
        x_label="tokens read before",
        y_label="state per sequence",
        curves=_curves(report, lambda point: float(point.state_bytes)),
        x_scale="log",
        y_scale="log",
        y_unit="bytes",
        caption="What is carried from token to token, and saved to go on later. Lower is better. Counted, not timed.",
    )
    return speed, size


def _place(report: SpeedReport) -> str:
    if report.device != "cpu":
        return report.device
    return f"the CPU with {report.threads} thread{'s' if report.threads != 1 else ''}"


def _span(report: SpeedReport, count: str) -> str:
    """How often the points were measured, as in ``5`` or ``1 to 5``."""
    counts = sorted({int(getattr(point, count)) for point in report.points})
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _speed_curve(name: str, points: Sequence[SpeedPoint]) -> Curve:
    return Curve(
        name=name,
        x=tuple(float(point.context) for point in points),
        y=tuple(point.decode_tokens_per_second for point in points),
        low=tuple(point.decode_slowest for point in points),
        high=tuple(point.decode_fastest for point in points),
    )


def results_table(
    results: Mapping[str, Sequence[BitsPerByte]],
    *,
    parameters: Mapping[str, int],
    training_seconds: Mapping[str, float],
    speed: SpeedReport,
) -> Table:
    """The main numbers, a row for each model; speeds at the longest context that every model was measured at.

    Args:
        results: By model, of one method or both.
        parameters: Number of weights of each model.
        training_seconds: Of each model.
        speed: Of the same models.
    """
    shared = [
        context
        for context in sorted({point.context for point in speed.points})
        if {point.model for point in speed.points if point.context == context} >= set(results)
    ]
    if not shared:
        raise ValueError("speed must have a context at which all models were measured, but has none.")
    at = {point.model: point for point in speed.points if point.context == shared[-1]}
    rows: list[tuple[str, ...]] = []
    for name, measured in results.items():
        rows.append(
            (
                name,
                f"{parameters[name]:,}",
                f"{training_seconds[name]:,.0f}",
                _mean_and_error(_by_way(measured, "windows")),
                _mean_and_error(_by_way(measured, "one_pass")),
                f"{at[name].decode_tokens_per_second:,.0f}",
                f"{at[name].prefill_tokens_per_second:,.0f}",
                f"{at[name].state_bytes:,}",
            )
        )
    return Table(
        title="Results",
        columns=(
            "model",
            "parameters",
            "training (s)",
            "bits per byte, windows",
            "bits per byte, one pass",
            f"decode at {shared[-1]:,} (tokens/s)",
            f"prefill of {shared[-1]:,} (tokens/s)",
            f"state at {shared[-1]:,} (bytes)",
        ),
        rows=tuple(rows),
        caption="Bits per byte: lower is better, ± one standard error over documents.",
    )


def _mean_and_error(result: BitsPerByte | None) -> str:
    if result is None:
        return "–"
    error = "" if result.standard_error is None else f" ± {result.standard_error:.3f}"
    return f"{result.bits_per_byte:.3f}{error}"
