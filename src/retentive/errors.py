"""Errors that a caller may want to catch. A caller's plain mistakes are ``ValueError`` or ``TypeError``."""


class RetentiveError(Exception):
    """Base of the errors below; the command line prints its message without a traceback."""


class DamagedFileError(RetentiveError):
    """A file on disk is truncated, altered or not what its manifest says; the message names it and the cure."""


class MismatchError(RetentiveError):
    """Two things that must fit do not: a state and a model, a checkpoint and a config, tokens and a tokenizer."""


class DivergedError(RetentiveError):
    """Numbers are not finite: a loss or gradient, a state, or the logits of a generation; checkpoints are kept."""
