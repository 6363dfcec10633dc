"""The picture of the recurrent-memory benchmark."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from benchmarks.racing.pictures import draw_targets, finish
from benchmarks.racing.results import Results

OURS_COLOUR, OTHER_COLOUR = "#0b6e4f", "#c2571a"

PACKAGE = "recurrent-memory-transformer-pytorch"


def draw(results: Results, path: Path) -> None:
    """Units per second of every contestant, a panel for each race, and how far each target is reached."""
    races = {name: race for name, race in results.races.items() if name != "machine"}
    figure, panels = pyplot.subplots(2, 4, figsize=(17, 8), layout="constrained")
    for axes, (name, race) in zip(panels.flat, races.items(), strict=False):
        labels = list(race.seconds)
        speeds = [1 / race.seconds_per_unit(label) for label in labels]
        colours = [OTHER_COLOUR if "pytorch" in label else OURS_COLOUR for label in labels]
        bars = axes.bar(range(len(labels)), speeds, color=colours, width=0.6)
        axes.bar_label(bars, [f"{speed:,.0f}" for speed in speeds])
        axes.set_xticks(range(len(labels)), [_short(label) for label in labels], fontsize=8)
        axes.set_title(name)
        axes.set_ylabel("segments per second" if "segment" in name else "tokens per second")
        axes.margins(y=0.15)
    draw_targets(panels.flat[len(races)], results.rows)
    for axes in list(panels.flat)[len(races) + 1 :]:
        axes.set_axis_off()
    plan, machine = results.plan, results.machine
    finish(
        figure,
        path,
        f"hidden {plan['hidden_size']}, {plan['num_layers']} layers, {plan['num_heads']} heads, segments of "
        f"{plan['segment_length']}, {plan['num_memory_tokens']} memory tokens, {plan['time']} tokens a step, float32, "
        f"{machine['threads']} threads of {machine['cpu']}, torch {machine['torch']}. Orange: {PACKAGE}",
    )


def _short(label: str) -> str:
    """What a panel's title and colours do not say yet."""
    told = label.replace(" with recall", "").replace(PACKAGE, "").removeprefix(", ")
    return told.replace(", ", "\n").replace(" ", "\n") or "as it\ncomes"
