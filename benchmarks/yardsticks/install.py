"""Make a yardstick's virtual environment: ``python -m benchmarks.yardsticks.install yet_another_retnet``.

A yardstick is a requirements file in this folder. It is installed into ``.venvs/``, with the torch that
``constraints.txt`` pins, and never beside the library: what it needs must not decide what the library runs on.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STAMP = "installed-from.sha256"


def requirements_file(name: str) -> Path:
    """Where the requirements of a yardstick stand.

    Raises:
        ValueError: If there is no such yardstick.
    """
    folder = Path(__file__).parent
    known = sorted(path.stem for path in folder.glob("*.txt"))
    if name not in known:
        raise ValueError(f"yardstick must be one of {', '.join(known)}, but is {name!r}.")
    return folder / f"{name}.txt"


def environment_folder(name: str) -> Path:
    """The virtual environment of a yardstick."""
    return ROOT / ".venvs" / requirements_file(name).stem.replace("_", "-")


def yardstick_python(name: str) -> Path:
    """The interpreter of an installed yardstick.

    Raises:
        FileNotFoundError: If it is not installed, or its requirements have changed since.
    """
    if not is_current(name):
        raise FileNotFoundError(
            f"yardstick {name} must be installed in {environment_folder(name)}, but is missing or out of date; run: "
            f"python -m benchmarks.yardsticks.install {name}"
        )
    return interpreter(environment_folder(name))


def is_current(name: str) -> bool:
    """Whether the environment was finished with the requirements and constraints of today."""
    stamp = environment_folder(name) / STAMP
    return stamp.exists() and stamp.read_text() == _fingerprint(name)


def install(name: str) -> None:
    """Make the environment anew, unless it is current."""
    if is_current(name):
        return
    folder = environment_folder(name)
    venv.create(folder, with_pip=True, clear=True)
    constraints = ROOT / "constraints.txt"
    pip = [str(interpreter(folder)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--constraint", str(constraints), "--requirement", str(requirements_file(name))], check=True)
    (folder / STAMP).write_text(_fingerprint(name))  # last, so that an interrupted installation is not taken for one


def interpreter(folder: Path) -> Path:
    """The Python of a virtual environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _fingerprint(name: str) -> str:
    parts = (requirements_file(name).read_bytes(), (ROOT / "constraints.txt").read_bytes(), sys.version.encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def main() -> None:
    """Install the yardsticks named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("yardstick", nargs="+", help="name of a requirements file in benchmarks/yardsticks")
    for name in parser.parse_args().yardstick:
        print(f"installing yardstick {name} into {environment_folder(name)}", file=sys.stderr)
        install(name)


if __name__ == "__main__":
    main()
