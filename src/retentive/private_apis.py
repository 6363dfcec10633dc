"""What this library uses of other packages that they do not promise to keep, and the releases it was seen in.

torch is imported inside the functions that use it: many commands start in less time than importing torch takes.

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

import ctypes
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_TORCH_LIBRARIES = {"linux": "libtorch_cpu.so", "darwin": "libtorch_cpu.dylib"}


def was_loaded_by_transformers(tensor: "torch.Tensor") -> bool:
    """Tell whether ``from_pretrained`` has filled a tensor from a file (transformers 5.0.0, 5.24.0)."""
    return bool(getattr(tensor, "_is_hf_initialized", False))


def offloading_hook(module: "torch.nn.Module") -> Any:
    """Return the hook that loads a module's offloaded tensors before each call (accelerate 1.3.0, 1.15.0); or None."""
    hook: Any = getattr(module, "_hf_hook", None)
    return hook if getattr(hook, "offload", False) else None


def is_offloaded(module: "torch.nn.Module") -> bool:
    """Tell whether accelerate has put a hook around a module's call (accelerate 1.3.0, 1.15.0)."""
    return hasattr(module, "_hf_hook")


def place_of_forward(module: "torch.nn.Module") -> str:
    """Name the attribute of a module that says what it computes: inside accelerate's hook (1.3.0, 1.15.0), if any."""
    return "_old_forward" if is_offloaded(module) and "_old_forward" in vars(module) else "forward"


def is_functionally_transformed() -> bool:
    """Tell whether a transform of ``torch.func``, such as ``grad`` or ``vmap``, is active (torch 2.13)."""
    import torch

    is_active: Callable[[], bool] = getattr(torch._C, "_are_functorch_transforms_active", bool)  # pyright: ignore[reportPrivateUsage]
    return is_active()


def is_forward_differentiated() -> bool:
    """Tell whether ``torch.autograd.forward_ad.dual_level`` is entered (torch 2.13)."""
    import torch

    return int(getattr(torch.autograd.forward_ad, "_current_level", -1)) >= 0


def is_faking() -> bool:
    """Tell whether a ``FakeTensorMode`` is on, whose tensors have no values and meet no real ones (torch 2.13)."""
    import torch

    keys = getattr(torch._C, "_TorchDispatchModeKey", None)  # pyright: ignore[reportPrivateUsage]
    get = getattr(torch._C, "_get_dispatch_mode", None)  # pyright: ignore[reportPrivateUsage]
    return keys is not None and get is not None and get(keys.FAKE) is not None


def is_fake(value: object) -> bool:
    """Tell whether a value is a tensor of a ``FakeTensorMode``, as an exporter has in place of weights (torch 2.13)."""
    import torch

    module = getattr(torch, "_subclasses", None)
    kind = getattr(module, "FakeTensor", None)
    return kind is not None and type(value) is kind


def is_batched(tensor: "torch.Tensor") -> bool | None:
    """Tell whether a tensor stands for many, inside ``vmap`` (torch 2.13); None where this torch cannot tell."""
    import torch

    try:
        functions = torch._C._functorch  # pyright: ignore
        return bool(functions.is_batchedtensor(tensor) or functions.is_legacy_batchedtensor(tensor))
    except AttributeError:
        return None


def is_graph_kept() -> bool | None:
    """Tell whether the running ``backward`` keeps its graph for another (torch 2.13); None where torch cannot tell."""
    import torch

    try:
        return bool(torch._C._autograd._get_current_graph_task_keep_graph())  # pyright: ignore
    except AttributeError:
        return None


def parameters_held_by(module: "torch.nn.Module") -> dict[str, Any]:
    """Return the dictionary in which a module keeps its own parameters (torch 2.13): tensors, within ``torch.func``."""
    return module._parameters  # pyright: ignore[reportPrivateUsage]


def buffers_held_by(module: "torch.nn.Module") -> "dict[str, torch.Tensor | None]":
    """Return the dictionary in which a module keeps its own buffers (torch 2.13)."""
    return module._buffers  # pyright: ignore[reportPrivateUsage]


def parts_held_by(module: "torch.nn.Module") -> "dict[str, torch.nn.Module | None]":
    """Return the dictionary in which a module keeps the modules inside it (torch 2.13)."""
    return module._modules  # pyright: ignore[reportPrivateUsage]


def is_called_compiled(module: "torch.nn.Module") -> bool:
    """Tell whether ``module.compile()`` has put a compiler's code in place of its call (torch 2.13)."""
    return module._compiled_call_impl is not None  # pyright: ignore[reportPrivateUsage]


def is_from_compile(module: "torch.nn.Module") -> bool:
    """Tell whether ``torch.compile(module)`` gave a module (torch 2.13)."""
    return hasattr(module, "_orig_mod")


def has_hooks(module: "torch.nn.Module") -> bool:
    """Tell whether a hook, of a module or of all modules, sees what it is given or returns (torch 2.13).

    Where this torch cannot tell of all modules, there may be one.
    """
    import torch

    has_global_hook = getattr(torch.nn.modules.module, "_has_any_global_hook", None)
    if has_global_hook is None or has_global_hook():
        return True
    return has_own_hooks(module)


def hooks_held_by(module: "torch.nn.Module") -> tuple[Any, ...]:
    """Return the forward hooks of this very module (torch 2.13)."""
    return (*module._forward_hooks.values(), *module._forward_pre_hooks.values())  # pyright: ignore[reportPrivateUsage]


def has_own_hooks(module: "torch.nn.Module") -> bool:
    """Tell whether a hook of this very module sees what it is given or returns (torch 2.13)."""
    forward = module._forward_hooks or module._forward_pre_hooks  # pyright: ignore[reportPrivateUsage]
    backward = module._backward_hooks or module._backward_pre_hooks  # pyright: ignore[reportPrivateUsage]
    return bool(forward or backward)


def flash_attention_for_cpu() -> Any:
    """Return torch's attention on CPUs, as its counter of operations names it (torch 2.13)."""
    import torch

    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def packed_linear_operators() -> tuple[Any, Any] | None:
    """Return oneDNN's operators that order a linear layer's weights and apply it (torch 2.13); None without them."""
    import torch

    operators: Any = torch.ops.mkldnn
    names = ("_reorder_linear_weight", "_linear_pointwise")
    if not torch.backends.mkldnn.is_available() or not all(hasattr(operators, name) for name in names):
        return None
    return operators._reorder_linear_weight, operators._linear_pointwise


def product_of_eight_bits(x: "torch.Tensor", values: "torch.Tensor", scales: "torch.Tensor") -> "torch.Tensor":
    """Return ``x @ values.T * scales`` by torch's kernel for CPUs, in bfloat16 (torch 2.13)."""
    import torch

    return torch.ops.aten._weight_int8pack_mm(x, values, scales)


def product_of_whole_numbers(x: "torch.Tensor", values: "torch.Tensor") -> "torch.Tensor":
    """Return ``x @ values.T`` of int8 as int32 (torch 2.13; exact where the CPU has instructions for it)."""
    import torch

    return torch._int_mm(x, values.t())  # pyright: ignore[reportPrivateUsage]


def pack_four_bits(values: "torch.Tensor") -> "torch.Tensor":
    """Return numbers of 4 bits, given as int32, in the order of torch's kernel for this CPU (torch 2.13)."""
    import torch

    return torch.ops.aten._convert_weight_to_int4pack_for_cpu(values, 1)


def product_of_four_bits(
    x: "torch.Tensor", packed: "torch.Tensor", group_size: int, scales_and_zeros: "torch.Tensor"
) -> "torch.Tensor":
    """Return ``x`` times a weight that `pack_four_bits` has ordered, in bfloat16 (torch 2.13)."""
    import torch

    return torch.ops.aten._weight_int4pack_mm_for_cpu(x, packed, group_size, scales_and_zeros)


def is_protocol(kind: type) -> bool:
    """Tell whether a class is a ``typing.Protocol`` and no class that satisfies one (Python 3.11)."""
    return bool(getattr(kind, "_is_protocol", False))


def keep_cache_in_output(cache: Any) -> None:
    """Let ``generate`` return a cache that the user gave it (transformers 5.24.0; in 5.0.0 it changes nothing)."""
    cache._is_user_defined = True


@cache
def _torch_library() -> ctypes.CDLL | None:
    """Torch's library for CPUs, through which the functions of its OpenMP and MKL are found (torch 2.13.0)."""
    import torch

    name = _TORCH_LIBRARIES.get(sys.platform)
    if name is not None:
        with suppress(OSError, AttributeError):
            library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / name))
            _ = library.omp_set_num_threads
            return library
    return None


def set_threads_of_this_thread(number: int) -> None:
    """Let torch's operations take some threads if this thread calls them (torch 2.13.0).

    ``torch.set_num_threads`` sets the number for the process too: a thread that starts meanwhile keeps it for ever.
    OpenMP's and MKL's own functions do not. Where they are not found, nothing changes.

    Args:
        number: Of threads. More than one leaves MKL to OpenMP's number.
    """
    import torch

    library = _torch_library()
    if library is None:
        return
    torch.get_num_threads()  # the first use of torch in a thread would overwrite what is set here
    library.omp_set_num_threads(ctypes.c_int(number))
    with suppress(AttributeError):  # not every torch is built with MKL
        library.MKL_Set_Num_Threads_Local(ctypes.c_int(1 if number == 1 else 0))


def let_dimension_vary(tensor: "torch.Tensor", dim: int) -> None:
    """Let ``torch.compile`` make one program for all sizes of a dimension, where it can (torch 2.13)."""
    import torch

    torch._dynamo.maybe_mark_dynamic(tensor, dim)  # pyright: ignore[reportPrivateUsage]


def stays_in_place(tensor: "torch.Tensor") -> None:
    """Tell ``torch.compile`` that the tensor keeps its memory from call to call, for CUDA graphs (torch 2.13)."""
    import torch

    torch._dynamo.mark_static_address(tensor)  # pyright: ignore[reportPrivateUsage]


def write_package(program: "torch.export.ExportedProgram", path: Path) -> None:
    """Compile an exported program into a package of AOTInductor (torch 2.13)."""
    import torch

    options = {"cpp_wrapper": True}
    torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=options)  # pyright: ignore[reportPrivateUsage]


def load_package(path: Path) -> Callable[..., Any]:
    """Return the program of such a package (torch 2.13)."""
    import torch

    return torch._inductor.aoti_load_package(str(path))  # pyright: ignore[reportPrivateUsage]


def options_of(parser: Any) -> list[Any]:
    """Return the options of a parser, to be changed (jsonargparse 4.49, argparse of Python 3.11)."""
    return parser._actions
