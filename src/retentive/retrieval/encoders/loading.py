"""Loading networks of transformers without what it prints."""

from pathlib import Path
from typing import Any


def load_quietly(kind: Any, folder: Path, **options: Any) -> Any:
    """Load a model without the warning about unused weights, such as those of a pooler, and without a bar.

    Args:
        kind: The class of transformers that loads it, as ``AutoModel``.
        folder: Its folder.
        options: Those of ``from_pretrained``.
    """
    from transformers.utils import logging

    verbosity, shows_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return kind.from_pretrained(folder, **options)
    finally:
        logging.set_verbosity(verbosity)
        if shows_bars:
            logging.enable_progress_bar()
