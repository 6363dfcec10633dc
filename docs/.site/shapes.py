"""Dimensions keep their quotes in signatures: a single one, as in ``Int[Tensor, "batch"]``, would be read as a name."""

from dataclasses import fields, is_dataclass
from typing import Any

import griffe

ARRAYS = {"Bool", "Float", "Int", "Int64"}


class QuotedDimensions(griffe.Extension):
    """Puts back what Griffe's reading of annotations takes away."""

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """Parameters and results."""
        for parameter in func.parameters:
            _quote(parameter.annotation)
        _quote(func.returns)

    def on_attribute(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Fields of dataclasses, and shapes that have a name."""
        _quote(attr.annotation)
        _quote(attr.value)


def _quote(part: object) -> None:
    if isinstance(part, griffe.ExprSubscript) and isinstance(part.slice, griffe.ExprTuple) and str(part.left) in ARRAYS:
        array, *dimensions = part.slice.elements
        part.slice.elements = [
            array,
            *(f'"{name}"' if isinstance(name, griffe.ExprName) else name for name in dimensions),
        ]
    elif isinstance(part, griffe.Expr) and is_dataclass(part):
        for field in fields(part):
            value = getattr(part, field.name)
            for child in value if isinstance(value, (list, tuple)) else (value,):
                if child is not part and not isinstance(part, griffe.ExprName):
                    _quote(child)
