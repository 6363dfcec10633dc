"""Models that transformers keeps on disk or in main memory, and loads where they compute, module by module."""

from importlib.util import find_spec
from typing import Any

from torch import nn

from retentive.private_apis import is_offloaded, offloading_hook


def keep_own_tensors(model: nn.Module) -> None:
    """Keep loaded what is read without a call of its module, before which it would be loaded.

    A model calls it before it reads: ``accelerate.cpu_offload`` and its like come when the model is loaded already.
    These are tensors that modules of this library hold themselves (scales, memory tokens), and tables: a tied head
    reads one, and it says where and in what dtype a model computes. Linear layers stay where they are.
    """
    if not (hasattr(model, "hf_device_map") or is_offloaded(model)) or find_spec("accelerate") is None:
        return
    from accelerate.hooks import remove_hook_from_module
    from accelerate.utils import set_module_tensor_to_device

    for module in model.modules():
        hook: Any = offloading_hook(module)
        is_own = type(module).__module__.startswith("retentive.")
        if hook is None or not (is_own or isinstance(module, nn.Embedding)):
            continue
        names = [name for name, _ in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))]
        if not names or hook.weights_map is None:
            continue
        values = {name: hook.weights_map[name] for name in names if getattr(module, name).is_meta}
        remove_hook_from_module(module)
        for name, value in values.items():
            set_module_tensor_to_device(module, name, hook.execution_device, value=value)
