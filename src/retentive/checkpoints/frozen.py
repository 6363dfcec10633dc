"""Which parts of a model are not trained: kept with the model, so that it is not trained by mistake."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from retentive.errors import MismatchError


def frozen_parts(model: nn.Module) -> list[str]:
    """Names of the largest modules, and of single parameters, that do not learn; none where nothing or all learns.

    A model of which nothing learns is one that is used and not trained.
    """
    learns = [parameter.requires_grad for parameter in model.parameters()]
    return [] if all(learns) or not any(learns) else _frozen(model, "")


def _frozen(module: nn.Module, prefix: str) -> list[str]:
    own = dict(module.named_parameters(recurse=False))
    found = [prefix + name for name, parameter in own.items() if not parameter.requires_grad]
    for name, child in module.named_children():
        parameters = list(child.parameters())
        if not any(parameter.requires_grad for parameter in parameters):
            found += [prefix + name] if parameters else []
        else:
            found += _frozen(child, f"{prefix}{name}.")
    return found


def freeze(model: nn.Module, names: Sequence[str], source: Path) -> None:
    """Freeze the parts that `frozen_parts` named.

    Raises:
        MismatchError: If the model has no part of such a name.
    """
    known = {**dict(model.named_modules()), **dict(model.named_parameters())}
    for name in names:
        if name not in known:
            raise MismatchError(
                f"{source} names {name!r} among the parts that are not trained, but the model has no such part; copy "
                "the folder again."
            )
        known[name].requires_grad_(False)
