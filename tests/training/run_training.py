"""One training run in a process of its own: ``run_training.py STORE RUN JSON``, the last a table of changes.

The shape checks of the test run are on here too.
"""

import json
import sys
from pathlib import Path

from jaxtyping import install_import_hook


def main() -> None:
    """Train, and print the report as JSON."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    with install_import_hook("retentive", "beartype.beartype"):
        import torch

        from retentive.errors import RetentiveError
        from retentive.models.registry import config_from_dict
        from retentive.training import config as configs
        from retentive.training.trainer import train
        from training.conftest import tiny_config, tiny_model

    torch.set_num_threads(1)
    store, run, changes = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    kinds = {
        "data": configs.DataConfig,
        "optimizer": configs.OptimizerConfig,
        "schedule": configs.ScheduleConfig,
        "held_out": configs.HeldOutConfig,
        "checkpoints": configs.CheckpointConfig,
        "hardware": configs.HardwareConfig,
        "metrics": configs.MetricsConfig,
    }
    model = changes.pop("model", {})
    model_config = config_from_dict(model) if "family" in model else tiny_model(**model)
    values = {name: kinds[name](**value) if name in kinds else value for name, value in changes.items()}
    try:
        report = train(model_config, tiny_config(store, run, **values))
    except (RetentiveError, ValueError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
    print(json.dumps({"steps": report.steps, "resumed_at": report.resumed_at, "stopped": report.stopped}))


if __name__ == "__main__":
    main()
