"""``retentive retro_evidence``: do neighbours help? Trained, measured and drawn here."""

from jsonargparse import ArgumentParser, Namespace

from retentive.cli.options.from_config import add_config, read_config
from retentive.experiments.retro_evidence.evidence import EvidenceConfig
from retentive.experiments.retro_evidence.run import installed_encoder, run_evidence

POSITIONAL = "corpus"


def add_options(parser: ArgumentParser, arguments: list[str]) -> None:
    """Every field of `EvidenceConfig`."""
    add_config(parser, EvidenceConfig)
    parser.set_defaults({"dense_model": installed_encoder()})


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Gather the evidence, print its table and where it is written."""
    print("\n".join(run_evidence(read_config(parser, options, EvidenceConfig)).lines()))
