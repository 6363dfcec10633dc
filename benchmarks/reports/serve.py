"""The picture of the benchmark of serving."""

import statistics
import textwrap
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from benchmarks.racing.pictures import draw_targets, finish
from benchmarks.racing.results import Results

COLOURS = ("#0b6e4f", "#3366aa", "#c2571a", "#8a6d1f")


def draw(results: Results, path: Path) -> None:
    """Tokens per second of streams, the first token by the text before it, and how far each target is reached."""
    streams = {name: race for name, race in results.races.items() if "streams" in name}
    figure, panels = pyplot.subplots(1, 3 + len(streams), figsize=(15 + 5 * len(streams), 4.5), layout="constrained")
    *speeds, firsts, sizes, targets = panels
    for axes, (name, race) in zip(speeds, streams.items(), strict=True):
        values = [1 / race.seconds_per_unit(label) for label in race.seconds]
        bars = axes.bar(range(len(values)), values, color=COLOURS, width=0.6)
        axes.bar_label(bars, [f"{value:,.0f}" for value in values])
        axes.set_xticks(
            range(len(values)), [textwrap.fill(label.removesuffix(", SmolLM2"), 14) for label in race.seconds]
        )
        axes.set_title(f"tokens per second, {name}")
    returning = [race for name, race in results.races.items() if name.startswith("first token")]
    for race, colour in zip(returning, COLOURS, strict=False):
        texts = [int(label.rsplit(", ", 1)[1].split()[0]) for label in race.seconds]
        name = next(iter(race.seconds)).rsplit(", ", 1)[0]
        firsts.plot(
            texts, [1000 * statistics.median(times) for times in race.seconds.values()], "o-", color=colour, label=name
        )
        sizes.plot(
            texts, [facts["state_bytes"] / 1024 for facts in race.facts.values()], "o-", color=colour, label=name
        )
    for axes, title in ((firsts, "milliseconds to the first token"), (sizes, "KiB of a stored state")):
        axes.set_xscale("log")
        axes.set_ylim(0, 1.2 * axes.get_ylim()[1])
        axes.set_xlabel("tokens of the session before")
        axes.set_title(title)
        axes.legend(loc="lower left")
    draw_targets(targets, results.rows)
    plan, machine = results.plan, results.machine
    finish(
        figure,
        path,
        f"hidden {plan['hidden_size']}, {plan['num_layers']} layers, {plan['num_heads']} heads, float32, "
        f"{machine['threads']} threads of {machine['cpu']}, torch {machine['torch']}",
    )
