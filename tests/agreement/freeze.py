"""``python -m agreement.freeze`` in ``tests``: write what the packages compute, for tests that run without them.

Run it after `make agreement` and look at what changed: frozen outputs change only if a package, or a case, has changed.
"""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from agreement.running import PACKAGES, REFERENCES, calls_of, run_reference

FROZEN = Path(__file__).parents[1] / "checkpoints" / "frozen"
CALLS = Path(__file__).parents[1] / "compat" / "calls.json"


def tensors_of(case: dict[str, Any]) -> dict[str, Tensor]:
    """All tensors of a case by name."""
    found = {"tokens": case["tokens"]}
    for group in ("weights", "logits"):
        found.update({f"{group}.{name}": tensor.contiguous() for name, tensor in case[group].items()})
    return found


def all_calls() -> dict[str, list[list[str]]]:
    """Calls of all packages that have a twin."""
    return {call: arguments for package in PACKAGES for call, arguments in calls_of(package).items()}


def main() -> None:
    """Write every case of every reference, and every call."""
    lines = [f"{json.dumps(call)}: {json.dumps(arguments)}" for call, arguments in all_calls().items()]
    CALLS.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    FROZEN.mkdir(exist_ok=True)
    for reference in REFERENCES:
        for name, case in run_reference(reference).items():
            save_file(tensors_of(case), FROZEN / f"{name}.safetensors", {"settings": json.dumps(case["settings"])})


if __name__ == "__main__":
    main()
