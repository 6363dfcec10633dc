"""``retentive demo``: the main job from a folder of text to a report, on a laptop in ten minutes."""

from jsonargparse import ArgumentParser, Namespace

from retentive.cli.options.from_config import add_config, read_config
from retentive.experiments.demo.config import DemoConfig
from retentive.experiments.demo.run import run_demo


def add_options(parser: ArgumentParser, arguments: list[str]) -> None:
    """Every field of `DemoConfig`."""
    add_config(parser, DemoConfig)


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Run the demo and say what was made, where, and what to try next."""
    made = run_demo(read_config(parser, options, DemoConfig))
    lines = (
        f"\nmade in {made.seconds / 60:.1f} minutes:",
        f"  {made.page}  the report: open it in a browser",
        f"  {made.model}  the RetNet; {made.session}  the state of its text",
        "try next:",
        f"  retentive generate {made.model} --prompt 'def ' --seed 2",
        f"  retentive generate {made.model} --state {made.session}",
        "  make demo CORPUS=path/to/your/text",
    )
    print("\n".join(lines))
