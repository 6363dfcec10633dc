"""What "auto" stands for: bfloat16 where it is native and faster, and in a run that goes on what it was begun with."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from retentive.errors import DamagedFileError
from retentive.training.processes.processes import Processes, alone
from retentive.training.run import precision
from retentive.training.run.precision import chosen_precision, with_precision
from training.conftest import asked_configs, final_tensors, run

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def machine(patch: pytest.MonkeyPatch, *, native: bool, times_as_fast: float) -> None:
    """A CPU with or without instructions for bfloat16, and the speed of its products over those of float32."""

    def speed(_: torch.device, dtype: torch.dtype) -> float:
        return times_as_fast if dtype is torch.bfloat16 else 1.0

    patch.setattr(precision, "cpu_multiplies_bfloat16", lambda: native)
    patch.setattr(precision, "matrix_flops_per_second", speed)


def kept_precision(folder: Path) -> str:
    """What the folder of a run says."""
    return json.loads((folder / "config.json").read_text())["training"]["hardware"]["precision"]


@pytest.mark.parametrize(
    ("native", "times_as_fast", "work", "chosen"),
    [
        (True, 4.0, 2**20, "bfloat16"),
        (True, 0.9, 2**20, "float32"),
        (False, 4.0, 2**20, "float32"),
        (True, 4.0, 2**20 - 1, "float32"),
    ],
)
def test_a_cpu_takes_what_it_multiplies_faster(
    native: bool, times_as_fast: float, work: int, chosen: str, monkeypatch: pytest.MonkeyPatch
):
    machine(monkeypatch, native=native, times_as_fast=times_as_fast)
    assert chosen_precision(CPU, work) == chosen


@pytest.mark.parametrize("family", ["retnet", "rmt"])
def test_a_call_is_as_large_as_its_share_of_a_batch_or_of_a_segment(
    family: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    machine(monkeypatch, native=True, times_as_fast=4.0)
    hardware = {"precision": "auto", "accumulation": 2}
    model, config = asked_configs(store, {"run": tmp_path, "hardware": hardware, "model": {"family": family}})
    columns = model.segment_length if family == "rmt" else config.data.window
    assert (family == "rmt") == (columns < config.data.window)
    work = config.data.batch_size // 2 * columns * model.decoder.embedding.hidden_size**2
    for limit, chosen in ((work, "bfloat16"), (work + 1, "float32")):
        monkeypatch.setattr(precision, "LARGE_ENOUGH", limit)
        assert with_precision(config, model, alone()).hardware.precision == chosen


def test_processes_take_bfloat16_together_and_never_sharded_on_cpus(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    machine(monkeypatch, native=True, times_as_fast=4.0)
    monkeypatch.setattr(precision, "LARGE_ENOUGH", 1)

    @dataclass(frozen=True)
    class Two(Processes):
        other: str = "bfloat16"

        def together(self, act: Callable[[], Any]) -> list[Any]:
            mine = act()
            return [mine, mine if mine is None else self.other]

    def chosen(other: str, strategy: str) -> str:
        asked: dict[str, Any] = {"run": tmp_path, "hardware": {"precision": "auto", "strategy": strategy}}
        model, config = asked_configs(store, asked)
        return with_precision(config, model, Two(0, 2, CPU, other=other)).hardware.precision

    assert chosen("bfloat16", "ddp") == "bfloat16"
    assert chosen("float32", "ddp") == "float32"
    assert chosen("bfloat16", "fsdp") == "float32"


def test_emulated_bfloat16_of_gpus_is_not_chosen(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert chosen_precision(GPU, 1) == "float32"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert chosen_precision(GPU, 1) == "bfloat16"


@pytest.mark.parametrize("began", ["float32", "bfloat16"])
def test_a_run_goes_on_as_it_began_on_a_machine_that_would_choose_otherwise(
    began: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    run(store, tmp_path / "whole", hardware={"precision": began})
    monkeypatch.setattr(precision, "LARGE_ENOUGH", 1)
    machine(monkeypatch, native=began == "bfloat16", times_as_fast=4.0)
    run(store, tmp_path / "parts", hardware={"precision": "auto"}, steps=4)
    assert kept_precision(tmp_path / "parts") == began
    begins = capsys.readouterr().err
    assert ("products are computed in bfloat16" in begins) == (began == "bfloat16")
    machine(monkeypatch, native=began != "bfloat16", times_as_fast=4.0)
    run(store, tmp_path / "parts", hardware={"precision": "auto"})
    slow = "goes on in bfloat16, as it was begun, which this CPU has no instructions for: it will be slow"
    assert (slow in capsys.readouterr().err) == (began == "bfloat16")
    assert kept_precision(tmp_path / "parts") == began
    torch.testing.assert_close(final_tensors(tmp_path / "parts"), final_tensors(tmp_path / "whole"), rtol=0, atol=0)


def test_weights_and_optimizer_of_a_run_in_bfloat16_stay_float32(store: Path, tmp_path: Path):
    run(store, tmp_path / "half", hardware={"precision": "bfloat16"}, steps=4)
    run(store, tmp_path / "single", steps=4)
    half, single = final_tensors(tmp_path / "half"), final_tensors(tmp_path / "single")
    assert {name: tensor.dtype for name, tensor in half.items()} == {
        name: tensor.dtype for name, tensor in single.items()
    }
    assert any(not torch.equal(half[name], single[name]) for name in half)


def test_a_run_whose_precision_is_none_is_damaged(store: Path, tmp_path: Path):
    run(store, tmp_path, steps=4)
    described = json.loads((tmp_path / "config.json").read_text())
    described["training"]["hardware"]["precision"] = "half"
    (tmp_path / "config.json").write_text(json.dumps(described))
    with pytest.raises(DamagedFileError, match=r"config\.json lacks a part of what stands in such a file"):
        run(store, tmp_path, hardware={"precision": "auto"})
