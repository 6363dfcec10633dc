"""``retentive serve``: a model behind an API, with stored sessions and a page."""

from jsonargparse import ArgumentParser, Namespace

from retentive.cli.options.from_config import add_config, read_config
from retentive.serving.config import ServeConfig

POSITIONAL = "checkpoint"


def add_options(parser: ArgumentParser, arguments: list[str]) -> None:
    """Every field of `ServeConfig`."""
    add_config(parser, ServeConfig)


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Answer requests until Ctrl-C."""
    config = read_config(parser, options, ServeConfig)
    from retentive.serving.server import serve  # FastAPI is needed from here on

    serve(config)
