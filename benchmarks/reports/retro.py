"""The picture of the RETRO benchmark."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

from benchmarks.racing.pictures import draw_targets, finish
from benchmarks.racing.results import Results

OURS_COLOUR, OTHER_COLOUR = "#0b6e4f", "#c2571a"


def draw(results: Results, path: Path) -> None:
    """Tokens per second of every contestant, memory of a training step, and how far each target is reached."""
    races = {name: race for name, race in results.races.items() if name != "machine"}
    figure, panels = pyplot.subplots(1, len(races) + 2, figsize=(5 * (len(races) + 2), 4.5), layout="constrained")
    for axes, (name, race) in zip(panels, races.items(), strict=False):
        speeds = {label: 1 / race.seconds_per_unit(label) for label in race.seconds}
        _bars(axes, name, "tokens per second", speeds)
    peaks = {name: peak / 2**20 for name, peak in results.peaks.items()}
    _bars(panels[-2], "peak memory of a training step", "MiB", peaks)
    draw_targets(panels[-1], results.rows)
    plan, machine = results.plan, results.machine
    finish(
        figure,
        path,
        f"hidden {plan['hidden_size']}, {plan['num_layers']} layers, {plan['num_heads']} heads, encoder of "
        f"{plan['encoder_layers']} layers, {plan['neighbours']} neighbours of {2 * plan['chunk_size']} tokens, "
        f"{plan['time']} tokens a step, float32, {machine['threads']} threads of {machine['cpu']}, torch "
        f"{machine['torch']}",
    )


def _bars(axes: Axes, title: str, unit: str, values: dict[str, float]) -> None:
    colours = [OTHER_COLOUR if "pytorch" in label else OURS_COLOUR for label in values]
    bars = axes.bar(range(len(values)), list(values.values()), color=colours, width=0.6)
    axes.bar_label(bars, [f"{value:,.0f}" if value >= 10 else f"{value:.1f}" for value in values.values()])
    axes.set_xticks(range(len(values)), [label.replace(", ", "\n").replace(" over ", "\nover ") for label in values])
    axes.tick_params(axis="x", labelsize=8)
    axes.set_title(title)
    axes.set_ylabel(unit)
    axes.margins(y=0.15)
