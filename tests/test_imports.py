"""The house stays open: no two files import each other, files and functions are short, mixers are not told apart."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import retentive

PACKAGE = Path(retentive.__file__).parent
TESTS = Path(__file__).parent
BENCHMARKS = TESTS.parent / "benchmarks"
MIXER = re.compile("Mixer|Retention|Attention")
FILE_LINES = 400
FUNCTION_LINES = 60
"""Of the whole function, signature and docstring included."""


@cache
def parsed(path: Path) -> ast.Module:
    """The file's syntax tree."""
    return ast.parse(path.read_text("utf-8"))


def module_name(path: Path, package: Path) -> str:
    """The dotted name of a file: a folder's name for its ``__init__.py``."""
    parts = (package.name, *path.relative_to(package).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(node: ast.Import | ast.ImportFrom, file: str, is_package: bool, files: set[str]) -> set[str]:
    """The files of the package that one statement imports: a name that is a file counts as that file, else its home."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names} & files
    home = node.module or ""
    if node.level:
        parents = file.split(".")[: len(file.split(".")) - node.level + is_package]
        home = ".".join([*parents, *([node.module] if node.module else [])])
    found = {f"{home}.{alias.name}" if f"{home}.{alias.name}" in files else home for alias in node.names}
    return found & files


class Imports(ast.NodeVisitor):
    """Every import statement of a file, those inside functions too, those for type checkers alone left out."""

    def __init__(self) -> None:
        self.found: list[ast.Import | ast.ImportFrom] = []

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) not in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            self.generic_visit(node)
        for other in node.orelse if ast.unparse(node.test).endswith("TYPE_CHECKING") else []:
            self.visit(other)

    def visit_Import(self, node: ast.Import) -> None:
        self.found.append(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self.found.append(node)


def import_graph(package: Path) -> dict[str, set[str]]:
    """For each file of a package, the files of the package that it imports."""
    paths = {module_name(path, package): path for path in sorted(package.rglob("*.py"))}
    graph: dict[str, set[str]] = {}
    for name, path in paths.items():
        imports = Imports()
        imports.visit(parsed(path))
        is_package = path.name == "__init__.py"
        graph[name] = {
            other for node in imports.found for other in imported(node, name, is_package, set(paths)) if other != name
        }
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The groups of files that import each other, directly or through others (Tarjan 1972)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    waiting: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = lowest[name] = len(order)
        waiting.append(name)
        for other in sorted(graph[name]):
            if other not in order:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in waiting:
                lowest[name] = min(lowest[name], order[other])
        if lowest[name] == order[name]:
            group = waiting[waiting.index(name) :]
            del waiting[waiting.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in graph:
        if name not in order:
            visit(name)
    return found


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function from its ``def`` to its last."""
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def long_functions(package: Path) -> list[str]:
    """The functions above the limit, each with its file and length."""
    functions = [
        (path, node)
        for path in sorted(package.rglob("*.py"))
        for node in ast.walk(parsed(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    return [
        f"{path.relative_to(package)}: {node.name} has {lines_of(node)} lines"
        for path, node in functions
        if lines_of(node) > FUNCTION_LINES
    ]


def long_files(package: Path) -> list[str]:
    """The files above the limit, each with its length."""
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in sorted(package.rglob("*.py"))}
    return [
        f"{path.relative_to(package)} has {length} lines" for path, length in lengths.items() if length > FILE_LINES
    ]


def mixers_asked_for_their_kind(package: Path) -> list[str]:
    """Every ``isinstance`` outside `layers/mixers` that names a mixer: there, a method of the mixer is missing."""
    found: list[str] = []
    for path in sorted(package.rglob("*.py")):
        relative = path.relative_to(package)
        for node in ast.walk(parsed(path)):
            is_question = isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass")
            if is_question and relative.parts[:2] != ("layers", "mixers") and MIXER.search(ast.unparse(node)):
                found.append(f"{relative}: {ast.unparse(node)}")
    return found


def test_no_two_files_import_each_other():
    found = circles(import_graph(PACKAGE))
    assert found == [], "\n".join(f"these files import each other: {', '.join(group)}" for group in found)


@pytest.mark.parametrize("folder", [PACKAGE, TESTS, BENCHMARKS], ids=["src", "tests", "benchmarks"])
def test_files_and_functions_are_short_enough_to_be_read(folder: Path):
    assert long_functions(folder) == []
    assert long_files(folder) == []


def test_nobody_outside_asks_a_mixer_for_its_kind():
    assert mixers_asked_for_their_kind(PACKAGE) == []


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a.py": "import house.b", "b.py": "from house import c", "c.py": ""}, []),
        (
            {"a.py": "from house.b import thing", "b.py": "def late():\n    from house import a"},
            [["house.a", "house.b"]],
        ),
        ({"a.py": "from . import b", "b.py": "from .a import thing"}, [["house.a", "house.b"]]),
        ({"a.py": "import house.room.c", "room/__init__.py": "from house import a", "room/c.py": ""}, []),
        ({"a.py": "from house.room import thing", "room/__init__.py": "from .. import a"}, [["house.a", "house.room"]]),
        ({"a.py": "from house import b", "b.py": "if TYPE_CHECKING:\n    from house import a"}, []),
        (
            {"a.py": "import house.b", "b.py": "import house.c", "c.py": "import house.a"},
            [["house.a", "house.b", "house.c"]],
        ),
    ],
)
def test_circles_are_found_wherever_the_import_stands(tmp_path, files, expected):
    for name, text in {"__init__.py": "", **files}.items():
        path = tmp_path / "house" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert circles(import_graph(tmp_path / "house")) == expected


def test_long_functions_and_files_are_found(tmp_path):
    around = 'def f(\n    a,\n):\n    """Say.\n\n    More.\n    """\n'
    body = "    x = 1\n" * (FUNCTION_LINES - around.count("\n"))
    (tmp_path / "long.py").write_text(f"{around}{body}    x = 2\n\n\n{around}{body}")
    (tmp_path / "file.py").write_text("x = 1\n" * (FILE_LINES + 1))
    assert long_functions(tmp_path) == [f"long.py: f has {FUNCTION_LINES + 1} lines"]
    assert long_files(tmp_path) == [f"file.py has {FILE_LINES + 1} lines"]


def test_a_question_about_the_kind_of_a_mixer_is_found(tmp_path):
    for name in ("layers/mixers/attention.py", "models/decoder.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(
            "x = isinstance(\n    mixer,\n    (int, AttentionConfig),\n)\ny = isinstance(x, int)\n"
        )
    assert mixers_asked_for_their_kind(tmp_path) == ["models/decoder.py: isinstance(mixer, (int, AttentionConfig))"]
