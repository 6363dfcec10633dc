"""What other packages keep private is used in one file, where each name stands with the releases it was seen in."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import retentive

PACKAGE = Path(retentive.__file__).parent
OVERRIDDEN = {"_init_weights"}
"""Called on ``super()`` where it is overridden; the table of `retentive.private_apis` has it."""
PUBLIC = {"os._exit"}


def is_private(name: str) -> bool:
    """Whether a name begins with one underscore."""
    return name.startswith("_") and not name.startswith("__")


def looked_up(source: str) -> list[ast.Attribute]:
    """Every use of a private attribute in a file."""
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute) and is_private(node.attr)]


def own_names() -> frozenset[str]:
    """Attributes that our classes give to themselves, which other objects of them may look up."""
    uses = (node for path in PACKAGE.rglob("*.py") for node in looked_up(path.read_text("utf-8")))
    return frozenset(
        node.attr for node in uses if isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"
    )


def private_names(source: str, own: frozenset[str] = frozenset()) -> Iterator[str]:
    """Private names of others in a file, looked up or imported."""
    others = (node for node in looked_up(source) if node.attr not in own)
    names = (ast.unparse(node) for node in others if ast.unparse(node.value) not in ("self", "cls"))
    yield from (name for name in names if name not in PUBLIC)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            parts = (node.module or "").split(".")
            yield from (name for name in (*parts, *(alias.name for alias in node.names)) if is_private(name))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr", "delattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant) and is_private(str(name.value)):
                yield ast.unparse(node)


@pytest.mark.parametrize(
    "source", ["x = parser._actions", "from torch.nn import _reduction", "from torch._C import x", "getattr(x, '_y')"]
)
def test_private_names_are_found(source: str):
    assert list(private_names(source))


def test_private_names_of_others_stand_in_one_file():
    own = own_names()
    found = {
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in PACKAGE.rglob("*.py")
        if path.name != "private_apis.py"
        for name in private_names(path.read_text("utf-8"), own)
        if not (name.startswith("super().") and name.removeprefix("super().") in OVERRIDDEN)
    }
    assert not found
