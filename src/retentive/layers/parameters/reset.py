"""Parameters filled anew, as construction fills them: of models that were made without memory."""

from torch import nn


def reset_parts(module: nn.Module) -> None:
    """Call ``reset_parameters`` of all that is inside a module, in the order in which it was made.

    Raises:
        TypeError: If something inside holds parameters and has no ``reset_parameters``.
        ValueError: If parameters are sharded: rules for some rows of a weight would fill copies of them.
    """
    for name, parameter in module.named_parameters():
        if hasattr(parameter, "placements"):
            raise ValueError(
                f"parameters must be whole when they are filled, but {name} is sharded; call reset_parameters() "
                "before sharding, on the first process alone if the others lack memory, and send its state_dict() by "
                "set_model_state_dict(broadcast_from_rank0=True) of torch.distributed.checkpoint.state_dict."
            )
    for part in module.children():
        reset = getattr(part, "reset_parameters", None)
        if callable(reset):
            reset()
        elif next(part.parameters(recurse=False), None) is not None:
            raise TypeError(
                f"a {type(part).__name__} must have reset_parameters() to be filled anew, for it holds parameters; "
                "add the method, which fills them as its construction does."
            )
        else:
            reset_parts(part)
