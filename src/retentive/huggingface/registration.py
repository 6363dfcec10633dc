"""Making transformers' Auto classes know the models of this library."""

from transformers import AutoConfig, AutoModelForCausalLM

from retentive.huggingface.config import RetentiveConfig
from retentive.huggingface.model import RetentiveForCausalLM


def register() -> None:
    """Let ``AutoConfig``, ``AutoModelForCausalLM`` and so ``pipeline`` load our folders. Calling it twice is fine."""
    AutoConfig.register(RetentiveConfig.model_type, RetentiveConfig, exist_ok=True)
    AutoModelForCausalLM.register(RetentiveConfig, RetentiveForCausalLM, exist_ok=True)
