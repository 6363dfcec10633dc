"""What a saved model's folder holds for transformers alone."""

import math
from pathlib import Path
from typing import Any, cast

from retentive.errors import DamagedFileError
from retentive.files import read_json, write_atomically

GENERATION_FILE = "generation_config.json"
CODE_FILE = "modeling_retentive.py"
CODE = '''\
"""What transformers imports with ``trust_remote_code=True``: the classes of the installed package alone."""

from retentive.huggingface import RetentiveConfig, RetentiveForCausalLM, RetentiveForSequenceClassification

__all__ = ["RetentiveConfig", "RetentiveForCausalLM", "RetentiveForSequenceClassification"]
'''
AUTO_MAP = {
    "AutoConfig": "modeling_retentive.RetentiveConfig",
    "AutoModelForCausalLM": "modeling_retentive.RetentiveForCausalLM",
    "AutoModelForSequenceClassification": "modeling_retentive.RetentiveForSequenceClassification",
}
"""The class of `CODE_FILE` that each Auto class makes, where nobody called `retentive.huggingface.register`."""
AUTO_CLASSES = {path.rpartition(".")[2]: auto_class for auto_class, path in AUTO_MAP.items()}
"""The Auto class that makes each class of `CODE_FILE`.

``config.json`` names it as the architecture: programs such as ``transformers serve`` look that name up in the module
``transformers``, which has the Auto classes and none of ours.
"""


def write_code_file(folder: Path) -> None:
    """Write the file that leads transformers to the installed package; this library never runs it."""
    write_atomically(folder / CODE_FILE, CODE.encode())


def ends_of_generation(folder: Path) -> tuple[int, ...]:
    """Return the ids that end a text by a folder's ``generation_config.json``; none without one.

    Raises:
        DamagedFileError: If the file is no JSON object, or names ends that are no ids.
    """
    path = folder / GENERATION_FILE
    said: Any = _generation_settings(path).get("eos_token_id")
    ends: list[Any] = cast("list[Any]", said) if isinstance(said, list) else [] if said is None else [said]
    if not all(isinstance(end, int) for end in ends):
        raise DamagedFileError(f"{path} must name ends of a text by their ids, but has {said!r}: copy it again.")
    return tuple(ends)


def repetition_penalty_of_generation(folder: Path) -> float:
    """Return the penalty of a folder's ``generation_config.json``, as for `Sampling`; 1.0 without one.

    Raises:
        DamagedFileError: If the file is no JSON object, or names a penalty that is no number above 0.
    """
    path = folder / GENERATION_FILE
    said: Any = _generation_settings(path).get("repetition_penalty")
    if said is None:
        return 1.0
    if not isinstance(said, int | float) or isinstance(said, bool) or not 0 < said < math.inf:
        raise DamagedFileError(f"{path} must name a repetition_penalty above 0, but has {said!r}: copy it again.")
    return float(said)


_CHANGING = {
    "num_beams": 1,
    "num_beam_groups": 1,
    "no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "force_words_ids": None,
    "sequence_bias": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "min_length": 0,
    "min_new_tokens": 0,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None,
    "guidance_scale": 1,
    "penalty_alpha": None,
    "watermarking_config": None,
    "stop_strings": None,
    "dola_layers": None,
}
"""Settings that change what transformers writes without sampling too, with the value that changes nothing."""


def check_generation_settings(folder: Path) -> None:
    """Check that a folder's ``generation_config.json`` asks for nothing that greedy writing here does not do.

    Raises:
        ValueError: If it does; the message names what.
    """
    path = folder / GENERATION_FILE
    said = _generation_settings(path)
    found = [name for name, neutral in _CHANGING.items() if said.get(name) not in (None, neutral, [], {})]
    if found:
        raise ValueError(
            f"{path} sets {', '.join(f'{name}={said[name]!r}' for name in found)}, by which transformers writes other "
            "texts than this library: take it out to measure the model without, or measure it by `--model hf`."
        )


def _generation_settings(path: Path) -> dict[str, Any]:
    return read_json(path, cure="copy it again") if path.is_file() else {}


def transformers_settings(weights_file: str, special_ids: dict[str, int]) -> dict[str, Any]:
    """Return the keys of ``config.json`` that transformers reads, beside ``config``."""
    return {
        "model_type": "retentive",
        "architectures": [AUTO_CLASSES["RetentiveForCausalLM"]],
        "auto_map": AUTO_MAP,
        "transformers_weights": weights_file,
        **special_ids,
    }
