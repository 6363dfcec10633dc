"""Checkpoints that other packages write now: read here, they compute what the packages compute."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from agreement.freeze import CALLS, FROZEN, all_calls, tensors_of
from agreement.running import REFERENCES, retro_dataset, run_reference
from retentive.checkpoints.conversion import read_foreign
from retentive.compat.retro_pytorch import RETRODataset

# `make agreement` installs the packages and runs this; importing one can take minutes on a busy machine.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("reference", REFERENCES)
def test_converted_models_compute_what_their_packages_do(reference: str, tmp_path: Path):
    for name, case in run_reference(reference).items():
        folder = tmp_path / name
        folder.mkdir()
        torch.save(case["weights"], folder / "pytorch_model.bin")
        (folder / "config.json").write_text(json.dumps(case["settings"]))
        with torch.no_grad():
            logits = read_foreign(folder).model()(case["tokens"]).logits
        for form, expected in case["logits"].items():
            # torchscale's chunkwise form is another function than its other two, unless its epsilon is next to nothing.
            close = 1e-3 if (form, name) == ("chunkwise", "torchscale-1e-06") else 1e-5
            torch.testing.assert_close(
                logits, expected, rtol=0, atol=close, msg=partial("{}, {}: {}".format, name, form)
            )


@pytest.mark.parametrize("reference", REFERENCES)
def test_frozen_outputs_are_those_of_the_packages(reference: str):
    for name, case in run_reference(reference).items():
        frozen = load_file(FROZEN / f"{name}.safetensors")
        found = tensors_of(case)
        assert frozen.keys() == found.keys()
        for key, tensor in found.items():
            torch.testing.assert_close(
                tensor, frozen[key], rtol=0, atol=2e-6, msg=partial("{}, {}: {}".format, name, key)
            )


def test_frozen_calls_are_those_of_the_packages():
    def steady(calls: dict[str, list[list[str]]]) -> dict[str, list[list[str]]]:
        return {
            call: [[*names, value.split(" at 0x")[0]] for *names, value in listed] for call, listed in calls.items()
        }

    assert steady(json.loads(CALLS.read_text())) == steady(all_calls())


@pytest.mark.parametrize("add_continuations", [True, False])
def test_a_dataset_of_files_is_theirs(add_continuations: bool, tmp_path: Path):
    generator = np.random.default_rng(0)
    chunks = generator.integers(104, 200, size=(40, 9)).astype(np.int32)
    chunks[:-1, -1] = chunks[1:, 0]
    chunks[[7, 19, 30, 39], 5] = 102  # documents end in the middle of a chunk, where both say the same
    neighbours = generator.integers(-1, 40, size=(40, 2)).astype(np.int32)
    files = {"chunk_memmap_path": chunks, "chunk_nn_memmap_path": neighbours}
    files["seq_memmap_path"] = np.array([0, 4, 8, 17, 20, 36], dtype=np.int32)
    arguments = {"num_chunks": 40, "chunk_size": 8, "seq_len": 32, "num_sequences": 6, "num_neighbors": 2}
    arguments |= {"add_continuations": add_continuations}
    for name, rows in files.items():
        rows.tofile(tmp_path / name)
        arguments[name] = str(tmp_path / name)
    (tmp_path / "arguments.json").write_text(json.dumps(arguments))
    ours = RETRODataset(**arguments)
    found = [ours[number] for number in range(6)]
    for one, other in zip(found, retro_dataset(tmp_path), strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
