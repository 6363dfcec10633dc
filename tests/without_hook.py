"""Run calls in a process without the jaxtyping hook, as users do.

The hook of the test run checks types before our own checks see a value, so messages about values of a wrong type are
collected here.
"""

import json
import re
import subprocess
import sys
from typing import Any

_PROGRAM = """
import importlib, json, pathlib, sys
results = []
for target, arguments in json.load(sys.stdin):
    module, name = target.split(":")
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    for key, value in arguments.items():
        if isinstance(value, dict) and value.keys() == {"path"}:
            arguments[key] = pathlib.Path(value["path"])
    try:
        getattr(importlib.import_module(module), name)(**arguments)
        results.append(["", ""])
    except Exception as error:
        results.append([type(error).__name__, str(error)])
print(json.dumps(results))
"""


def errors_of(calls: list[tuple[str, dict[str, Any]]]) -> list[tuple[str, str]]:
    """Type and message of what each call ``("module:name", keyword arguments)`` raises, empty if it does not.

    A path is given as ``{"path": "..."}``.
    """
    run = subprocess.run(
        [sys.executable, "-c", _PROGRAM], input=json.dumps(calls), capture_output=True, text=True, check=True
    )
    return [(kind, message) for kind, message in json.loads(run.stdout)]


def assert_refused(calls: list[tuple[str, dict[str, Any]]], patterns: list[str]) -> None:
    """Each call, as of `errors_of`, raises a ValueError that matches its pattern."""
    for call, pattern, (error, message) in zip(calls, patterns, errors_of(calls), strict=True):
        assert error == "ValueError", call
        assert re.search(pattern, message), f"{call}: {message}"
