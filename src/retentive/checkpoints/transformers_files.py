"""What a saved model's folder holds for transformers alone."""

from pathlib import Path
from typing import Any

from retentive.files import write_atomically

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


def write_code_file(folder: Path) -> None:
    """Write the file that leads transformers to the installed package; this library never runs it."""
    write_atomically(folder / CODE_FILE, CODE.encode())


def transformers_settings(weights_file: str, special_ids: dict[str, int]) -> dict[str, Any]:
    """Return the keys of ``config.json`` that transformers reads, beside ``config``."""
    return {
        "model_type": "retentive",
        "architectures": ["RetentiveForCausalLM"],
        "auto_map": AUTO_MAP,
        "transformers_weights": weights_file,
        **special_ids,
    }
