"""The machine and the software that a measurement was made with."""

import platform
from pathlib import Path

import torch

from retentive import __version__


def describe_machine(device: torch.device) -> dict[str, str]:
    """Describe the processor, the system and the versions, without which a measured time means nothing."""
    threads = torch.get_num_threads()
    facts = {"processor": f"{_cpu_name()}, {threads} thread{'s' if threads != 1 else ''}"}
    if device.type == "cuda":
        facts["GPU"] = torch.cuda.get_device_name(device)
    return {
        **facts,
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "software": f"retentive {__version__}, torch {torch.__version__}",
    }


def _cpu_name() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text("utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
