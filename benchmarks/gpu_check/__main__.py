"""``python -m benchmarks.gpu_check --device cuda``: at most ten minutes, one JSON with the card's name.

Each part runs in a process of its own, so that one that breaks the device leaves the others theirs, and the file is
written after each. ``--device cpu --quick`` tries the script where there is no GPU.
"""

import argparse
import importlib.util
import json
import platform
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_check.parts import run_part
from benchmarks.racing.interleave import ROOT

PARTS: dict[str, tuple[str, float]] = {
    "retention": ("benchmarks.gpu_check.retention:compare_retention", 100),
    "precisions": ("benchmarks.gpu_check.models:check_precisions", 90),
    "decoding": ("benchmarks.gpu_check.models:check_decoding", 150),
    "laws": ("benchmarks.gpu_check.laws:check_laws", 300),
}
"""What is run, and the seconds that each may take; those that are left go to the next."""


def description(device: str) -> dict[str, Any]:
    """What a number means nothing without."""
    where = torch.device(device)
    found: dict[str, Any] = {"device": device, "python": platform.python_version(), "torch": torch.__version__}
    for package in ("triton", "fla-core"):
        if importlib.util.find_spec({"fla-core": "fla"}.get(package, package)) is not None:
            found[package] = version(package)
    if where.type == "cuda":
        card = torch.cuda.get_device_properties(where)
        found |= {"card": card.name, "capability": f"{card.major}.{card.minor}", "memory_bytes": card.total_memory}
        found["cuda"] = torch.version.cuda
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all parts; 1 if something failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="where to run (default: cuda)")
    parser.add_argument("--minutes", type=float, default=10, help="of all parts together (default: 10)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="which parts (default: all)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes and few tests, to see that it runs")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "runs" / "gpu-check.json", help="the file that is written"
    )
    options = parser.parse_args(arguments)
    if torch.device(options.device).type == "cuda" and not torch.cuda.is_available():
        parser.error("--device must be there, but torch sees no GPU here; --device cpu --quick tries the script.")
    end = time.monotonic() + 60 * options.minutes - 5
    report: dict[str, Any] = {"machine": description(options.device), "quick": options.quick, "parts": {}}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    for name in options.parts:
        target, most = PARTS[name]
        left = end - time.monotonic()
        seconds = left if name == options.parts[-1] else min(most, left)
        found: dict[str, Any] = {"errors": ["no time was left"]}
        if seconds > 10:
            found = run_part(target, options.device, quick=options.quick, seconds=seconds)
        report["parts"][name] = found
        options.output.write_text(json.dumps(report, indent=1) + "\n")
        errors: list[str] = found["errors"]
        print(f"{name}: {'; '.join(errors) if errors else 'passed'} ({found.get('seconds', 0):.0f} s)", flush=True)
    print(f"written: {options.output}")
    return int(any(found["errors"] for found in report["parts"].values()))


if __name__ == "__main__":
    sys.exit(main())
