"""What is typed into a terminal on a page, done inside the page's program: a command that starts anew takes seconds."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from texts import shorten

from retentive.cli.main import main

SMALL = "--data.batch-size 2 --data.window 128 --held-out.windows 2"
"""Of every training on a page. The last value of an option is the one that counts."""


def type_in(block: str) -> None:
    """Run the lines of a block as they stand, but that trainings take two small steps, of texts that are cut short.

    Raises:
        SystemExit: If a command of ours fails.
        subprocess.CalledProcessError: If another one does.
    """
    whole = block.replace("\\\n", "")  # a command may go on in the next line
    smaller = re.sub(r"^(.*retentive train .*--steps )\d+(.*)$", rf"\g<1>2\g<2> {SMALL}", whole, flags=re.MULTILINE)
    lines = smaller.splitlines()
    if not all(line.startswith("retentive ") for line in lines):
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        subprocess.run(["bash", "-euo", "pipefail", "-c", smaller], check=True, env={**os.environ, "PATH": path})
        if "mkdir my_texts" in lines:
            shorten(Path("my_texts"))
        return
    for line in lines:
        main(shlex.split(line, comments=True)[1:])
