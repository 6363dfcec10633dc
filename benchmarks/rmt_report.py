"""The picture of the recurrent-memory benchmark."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from benchmarks.retnet_report import Results

OURS_COLOUR, OTHER_COLOUR, TARGET_COLOUR = "#0b6e4f", "#c2571a", "#b00020"


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
        short = [label.replace("-", "-\n").replace(" with recall", "") for label in labels]
        axes.set_xticks(range(len(labels)), [text.replace(", ", "\n") for text in short], fontsize=7)
        axes.set_title(name)
        axes.set_ylabel("segments per second" if "segment" in name else "tokens per second")
        axes.margins(y=0.15)
    targets = panels.flat[len(races)]
    rows = [row for row in results.rows if row.target is not None][::-1]
    for height, row in enumerate(rows):
        assert row.target is not None
        share = row.ratio.median / row.target if row.limit == "least" else row.target / max(row.ratio.median, 0.01)
        targets.barh(height, min(share, 3), color=OURS_COLOUR if row.met else "#d9a441", height=0.65)
        sign = ">=" if row.limit == "least" else "<="
        targets.text(0.03, height, f"{row.ratio.median:.2f}x (target {sign} {row.target:g}x)", va="center", fontsize=8)
    targets.axvline(1, color=TARGET_COLOUR, linestyle="--", zorder=0)
    targets.set_yticks(range(len(rows)), [row.what for row in rows], fontsize=7)
    targets.set_xlabel("reached / target, at most 3")
    targets.set_title("Targets (green: met)")
    for axes in list(panels.flat)[len(races) + 1 :]:
        axes.set_axis_off()
    plan, machine = results.plan, results.machine
    figure.suptitle(
        f"hidden {plan['hidden_size']}, {plan['num_layers']} layers, {plan['num_heads']} heads, segments of "
        f"{plan['segment_length']}, {plan['num_memory_tokens']} memory tokens, {plan['time']} tokens a step, float32, "
        f"{machine['threads']} threads of {machine['cpu']}, torch {machine['torch']}",
        fontsize=11,
    )
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
