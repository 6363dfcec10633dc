"""Training runs in processes of their own: ``run_training.py STORE JSON``, a list of runs that are made in turn.

Each is ``{"run": folder, ...changes to the tiny config}``. Every process prints a line of JSON for each run: what it
reports, or the error. The shape checks of the test run are on here too.
"""

import faulthandler
import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

from jaxtyping import install_import_hook


def main() -> None:
    """Train, and print the reports."""
    faulthandler.dump_traceback_later(200, exit=True)  # processes that wait for one another say where
    sys.path.insert(0, str(Path(__file__).parents[1]))
    with install_import_hook("retentive", "beartype.beartype"):
        import torch

        import retentive.training.run.trainer
    torch.set_num_threads(1)
    together = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if together:  # one group for all runs; `train` joins the one that is there
        torch.distributed.init_process_group("gloo")
    for number, asked in enumerate(json.loads(sys.argv[2])):
        result = {"number": number, **result_of(Path(sys.argv[1]), asked)}
        sys.stdout.write(json.dumps(result) + "\n")  # in one piece, where several processes write
        sys.stdout.flush()
    if together:
        gc.collect()
        torch.distributed.destroy_process_group()
    del retentive


def result_of(store: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """One run."""
    from retentive.errors import RetentiveError
    from retentive.training.run.trainer import train
    from training.conftest import asked_configs

    model, config = asked_configs(store, asked)
    try:
        report = train(model, config)
    except (RetentiveError, ValueError, OSError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"steps": report.steps, "resumed_at": report.resumed_at, "stopped": report.stopped}


if __name__ == "__main__":
    main()
