"""The picture of the RetNet benchmark."""

import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

from benchmarks.racing.interleave import Race
from benchmarks.racing.pictures import TARGET_COLOUR, draw_targets, finish
from benchmarks.racing.results import Results

COLOURS = {"retnet": "#0b6e4f", "transformer": "#3066be", "yet-another-retnet": "#c2571a"}


def draw(results: Results, path: Path) -> None:
    """Draw the picture."""
    figure, panels = pyplot.subplots(2, 3, figsize=(16, 9), layout="constrained")
    draw_targets(panels[0, 0], results.rows)
    _draw_training(panels[0, 1], results)
    _draw_matrix_speed(panels[0, 2], results)
    _draw_peaks(panels[1, 0], results)
    _draw_decode(panels[1, 1], results)
    _draw_states(panels[1, 2], results)
    plan, machine = results.plan, results.machine
    finish(
        figure,
        path,
        f"hidden {plan['hidden_size']}, {plan['num_layers']} layers, {plan['num_heads']} heads, feed-forward "
        f"{plan['intermediate_size']}, vocabulary {plan['vocab_size']}, float32, batch 1, {machine['threads']} threads "
        f"of {machine['cpu']}, torch {machine['torch']}",
    )


def _draw_training(axes: Axes, results: Results) -> None:
    times = [time for time, _ in results.plan["training"]]
    races = [results.races[f"training {time}"] for time in times]
    for name in results.peaks:
        speeds = [1 / race.seconds_per_unit(name) for race in races]
        axes.plot(times, speeds, "o-", color=COLOURS[name], label=name)
    if "yet-another-retnet" in results.peaks:
        for time, race in zip(times, races, strict=True):
            ratio = race.times_as_fast("retnet", "yet-another-retnet").median
            ours, other = (1 / race.seconds_per_unit(name) for name in ("retnet", "transformer"))
            offset = 8 if ours > other else -16  # on the side where the other line is not
            axes.annotate(f"{ratio:.2f}x", (time, ours), textcoords="offset points", xytext=(0, offset), ha="center")
    axes.set_title("Training step (ratio to yet-another-retnet)")
    axes.set_ylabel("tokens per second")
    axes.set_ylim(bottom=0, top=1.15 * axes.get_ylim()[1])
    _tokens_axis(axes, times)
    axes.legend(fontsize=8)


def _draw_matrix_speed(axes: Axes, results: Results) -> None:
    times = [time for time, _ in results.plan["training"]]
    races = [results.races[f"training {time}"] for time in times]
    ours = [1e-9 * race.facts["retnet"]["matrix_flop"] / _median_seconds(race, "retnet") for race in races]
    best = [1e-9 / race.seconds_per_unit("matrix_product") for race in races]
    axes.plot(times, best, "s-", color="black", label="large square product")
    axes.plot(times, [0.7 * speed for speed in best], "--", color=TARGET_COLOUR, label="70% of it (target at 2048)")
    axes.plot(times, ours, "o-", color=COLOURS["retnet"], label="retnet in training")
    for time, speed, limit in zip(times, ours, best, strict=True):
        text = f"{speed / limit:.0%}"
        axes.annotate(text, (time, speed), textcoords="offset points", xytext=(0, -14), ha="center")
    axes.set_title("Share of the machine's float32 matrix speed")
    axes.set_ylabel("GFLOP per second in matrix products")
    axes.set_ylim(bottom=0, top=1.3 * axes.get_ylim()[1])  # room for the legend
    _tokens_axis(axes, times)
    axes.legend(fontsize=8)


def _median_seconds(race: Race, label: str) -> float:
    return race.seconds_per_unit(label) * race.units[label]


def _draw_peaks(axes: Axes, results: Results) -> None:
    names = list(results.peaks)
    sizes = [results.peaks[name] / 2**20 for name in names]
    bars = axes.bar(names, sizes, color=[COLOURS[name] for name in names], width=0.6)
    axes.bar_label(bars, [f"{size:.0f} MiB" for size in sizes])
    axes.set_ylim(top=1.2 * max(sizes))  # room for the legend
    if "yet-another-retnet" in results.peaks:
        limit = 0.35 * results.peaks["yet-another-retnet"] / 2**20
        axes.axhline(limit, color=TARGET_COLOUR, linestyle="--", label="target: 0.35x of yet-another-retnet")
        axes.legend(fontsize=8)
    axes.set_title(f"Peak memory of a training step, {results.plan['training'][-1][0]} tokens")
    axes.set_ylabel("MiB above what was resident before")


def _draw_decode(axes: Axes, results: Results) -> None:
    race, contexts = results.races["decode by context"], list(results.plan["contexts"])
    for name in ("retnet", "transformer"):
        times = [1000 * race.seconds_per_unit(f"{name} {context}") for context in contexts]
        axes.plot(contexts, times, "o-", color=COLOURS[name], label=name)
        growth = race.times_as_fast(f"{name} {contexts[0]}", f"{name} {contexts[-1]}").median
        place = (contexts[-1], times[-1])
        offset = -16 if name == "retnet" else 8
        axes.annotate(f"{growth:.2f}x", place, textcoords="offset points", xytext=(0, offset), ha="right")
    first = 1000 * race.seconds_per_unit(f"retnet {contexts[0]}")
    axes.axhline(1.1 * first, color=TARGET_COLOUR, linestyle="--", label="target: 1.1x of the shortest context")
    axes.set_title("One-token decode by context (ratio to the shortest)")
    axes.set_ylabel("milliseconds per token")
    axes.set_yscale("log")
    _tokens_axis(axes, contexts)
    axes.legend(fontsize=8)


def _draw_states(axes: Axes, results: Results) -> None:
    race, contexts = results.races["decode by context"], list(results.plan["contexts"])
    for name in ("retnet", "transformer"):
        sizes = [race.facts[f"{name} {context}"]["state_bytes"] / 2**20 for context in contexts]
        axes.plot(contexts, sizes, "o-", color=COLOURS[name], label=name)
        place = (contexts[-1], sizes[-1])
        axes.annotate(f"{sizes[-1]:.3g} MiB", place, textcoords="offset points", xytext=(0, 7), ha="right")
    axes.set_title("State of one sequence by context")
    axes.set_ylabel("MiB")
    axes.set_yscale("log")
    _tokens_axis(axes, contexts)
    axes.legend(fontsize=8)


def _tokens_axis(axes: Axes, ticks: list[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xlim(2 ** (math.log2(ticks[0]) - 0.5), 2 ** (math.log2(ticks[-1]) + 0.7))
    axes.set_xlabel("tokens")
    axes.margins(y=0.2)
