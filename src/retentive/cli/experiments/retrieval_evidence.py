"""``retentive retrieval_evidence``: ways to use one datastore, measured side by side."""

from jsonargparse import ArgumentParser, Namespace

from retentive.cli.options.from_config import add_config, read_config
from retentive.experiments.retrieval_evidence.config import RetrievalEvidenceConfig
from retentive.experiments.retrieval_evidence.report import run_retrieval_evidence

POSITIONAL = "corpus"


def add_options(parser: ArgumentParser, arguments: list[str]) -> None:
    """Every field of `RetrievalEvidenceConfig`."""
    add_config(parser, RetrievalEvidenceConfig)


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Gather the evidence, print its table and where it is written."""
    print("\n".join(run_retrieval_evidence(read_config(parser, options, RetrievalEvidenceConfig)).lines()))
