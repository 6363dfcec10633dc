"""What this library uses of other packages that they do not promise to keep, and the releases it was seen in.

Everything private that is called or read stands here, one function each. What is overridden instead, because a package
offers no public way, can only stand in the class that overrides it:

==================================  =================================================  ==============================
private name                        where it is overridden                             seen in
==================================  =================================================  ==============================
``_is_stateful``                    ``huggingface.model.RetentiveForCausalLM``         transformers 5.0.0, 5.24.0
``_prepare_cache_for_generation``   ``huggingface.model.RetentiveForCausalLM``         transformers 5.0.0, 5.24.0
``_init_weights``                   ``huggingface.pretrained``, ``.classification``    transformers 5.0.0, 5.24.0
``_no_split_modules``               ``huggingface.pretrained``                         transformers 5.0.0, 5.24.0
``_set_gradient_checkpointing``     ``huggingface.pretrained``                         transformers 5.0.0, 5.24.0
``_keys_to_ignore_on_load_...``     ``huggingface.classification``                     transformers 5.0.0, 5.24.0
==================================  =================================================  ==============================
"""

from typing import Any

from torch import Tensor


def was_loaded_by_transformers(tensor: Tensor) -> bool:
    """Tell whether ``from_pretrained`` has filled a tensor from a file (transformers 5.0.0, 5.24.0)."""
    return bool(getattr(tensor, "_is_hf_initialized", False))


def keep_cache_in_output(cache: Any) -> None:
    """Let ``generate`` return a cache that the user gave it (transformers 5.24.0; in 5.0.0 it changes nothing)."""
    cache._is_user_defined = True
