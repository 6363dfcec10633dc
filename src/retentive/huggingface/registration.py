"""Making transformers' Auto classes know the models of this library."""

from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from retentive.huggingface.classification import RetentiveForSequenceClassification
from retentive.huggingface.config import RetentiveConfig
from retentive.huggingface.model import RetentiveForCausalLM


def register() -> None:
    """Let transformers' Auto classes, and so ``pipeline``, load our folders. Calling it twice is fine."""
    AutoConfig.register(RetentiveConfig.model_type, RetentiveConfig, exist_ok=True)
    AutoModelForCausalLM.register(RetentiveConfig, RetentiveForCausalLM, exist_ok=True)
    AutoModelForSequenceClassification.register(RetentiveConfig, RetentiveForSequenceClassification, exist_ok=True)
