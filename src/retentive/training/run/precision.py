"""The precision that a run's products are computed in, where its options leave the choice to the library."""

from dataclasses import replace
from pathlib import Path

import torch

from retentive.files.progress import say
from retentive.models.protocol import FamilyConfig
from retentive.models.rmt import RecurrentMemoryConfig
from retentive.ops.precision import cpu_multiplies_bfloat16
from retentive.training.processes.parallelism import Precision
from retentive.training.processes.processes import Processes
from retentive.training.run.checkpoint_folder import checkpoint_folders
from retentive.training.run.config import TrainConfig
from retentive.training.run.run_folder import CHECKPOINTS_FOLDER, CONFIG_FILE, read_config
from retentive.training.step.flops import matrix_flops_per_second

LARGE_ENOUGH = 2**20
"""Multiplications of a product of a call's tokens by a square matrix of the model's width from which a CPU gains.

Below, rounding weights and activations takes longer than it saves: on an AMD EPYC with AVX512-BF16 training steps of
RetNet and Transformer had 0.87 to 0.94 of their speed at a quarter of it, 0.96 to 1.13 at it, 1.13 to 1.2 at twice it.
"""


def with_precision(config: TrainConfig, model: FamilyConfig, processes: Processes) -> TrainConfig:
    """Return the config of a run with the precision that "auto" stands for.

    A run that goes on keeps what it was begun with, whatever this machine would choose. A new one takes bfloat16 if all
    its processes would, for they must compute alike. Sharded on CPUs it stays float32: FSDP rounds weights of norms and
    tables too, and with them what runs from block to block.
    """
    if config.hardware.precision != "auto":
        return config
    on_cpu = processes.device.type == "cpu"
    kept = processes.together(lambda: _kept(config.run))[0]
    precision = _together(config, model, processes) if kept is None else kept
    if on_cpu and precision == "bfloat16":
        say(_about(begins=kept is None))
    return replace(config, hardware=replace(config.hardware, precision=precision))


def _together(config: TrainConfig, model: FamilyConfig, processes: Processes) -> Precision:
    if processes.count > 1 and config.hardware.strategy == "fsdp" and processes.device.type == "cpu":
        return "float32"
    work = _work(config, model, processes)
    found = processes.together(lambda: chosen_precision(processes.device, work))
    return "float32" if "float32" in found else "bfloat16"


def _work(config: TrainConfig, model: FamilyConfig, processes: Processes) -> int:
    """Multiplications of a product of a call's tokens by a square matrix of the model's width."""
    rows = config.data.batch_size // (processes.row_count * config.hardware.accumulation)
    columns = config.data.window // processes.parts_of_text
    if isinstance(model, RecurrentMemoryConfig):
        columns = min(columns, model.segment_length)
    return rows * columns * model.decoder.embedding.hidden_size**2


def _about(*, begins: bool) -> str:
    """What is said of a run in bfloat16 on a CPU."""
    if begins:
        return "products are computed in bfloat16, which is faster here (unless --hardware.precision is float32)."
    slow = "" if cpu_multiplies_bfloat16() else ", which this CPU has no instructions for: it will be slow"
    return f"the run goes on in bfloat16, as it was begun{slow}."


def chosen_precision(device: torch.device, work: int) -> Precision:
    """Return ``bfloat16`` where a device multiplies it natively and faster than float32.

    On a CPU both are measured, which takes half a second: instructions for bfloat16 (AVX512-BF16, AMX) say nothing of
    how fast they are.

    Args:
        device: Where the model is trained.
        work: Multiplications of a product of a call's tokens by a square matrix of the model's width.
    """
    if device.type == "cuda":
        # Emulated bfloat16 (before Ampere) is slower than float32.
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type != "cpu" or work < LARGE_ENOUGH or not cpu_multiplies_bfloat16():
        return "float32"
    half, single = (matrix_flops_per_second(device, dtype) for dtype in (torch.bfloat16, torch.float32))
    return "bfloat16" if half > single else "float32"


def _kept(folder: Path) -> Precision | None:
    """The precision of the run in a folder, if it has a checkpoint to go on from."""
    path = folder / CONFIG_FILE
    if not checkpoint_folders(folder / CHECKPOINTS_FOLDER) or not path.exists():
        return None
    return read_config(path)["training"]["hardware"]["precision"]
