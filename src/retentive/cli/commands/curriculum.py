"""``retentive curriculum``: a model learns on texts that grow stage by stage."""

from jsonargparse import ArgumentParser, Namespace

from retentive.cli.options.file import typed_or_in_file
from retentive.cli.options.from_config import add_choice, add_config, read_config
from retentive.cli.options.model import add_model_options, read_model_options, starting_config
from retentive.models.registry import family_names, preset_names
from retentive.training.curriculum.run import CurriculumRunConfig, run_curriculum

DEFAULT_FAMILY = "rmt"


def add_options(parser: ArgumentParser, arguments: list[str]) -> None:
    """Every field of `CurriculumRunConfig`, and every option of the family's model below ``--model``."""
    family = typed_or_in_file(arguments, "family") or DEFAULT_FAMILY
    sizes = preset_names(family)
    size = typed_or_in_file(arguments, "size") or sizes[0]
    add_choice(parser, "family", family_names(), default=family, text="Kind of model.")
    add_choice(parser, "size", sizes, default=sizes[0], text="Where the options of --model start from.")
    add_config(parser, CurriculumRunConfig)
    add_model_options(parser, "model", starting_config(family, size, None, None, None))


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Train, or go on training, and print what was learned."""
    config = read_config(parser, options, CurriculumRunConfig)
    start = starting_config(options.family, options.size, None, None, None)
    report = run_curriculum(read_model_options(start, options.model.as_dict(), config.vocab_size), config)
    for stage in report.stages:
        print(f"{stage.segments:>4} segments: learned after {stage.step:,} steps, {stage.seconds:.0f} s")
    left = config.curriculum.stages[len(report.stages) :]
    if left:
        print(f"not learned: {', '.join(map(str, left))} segments; more --steps go on from here")
    print(f"model: {config.run / 'model'}, after {report.steps:,} steps")
