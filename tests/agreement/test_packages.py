"""Checkpoints that other packages write now: read here, they compute what the packages compute."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from agreement.freeze import FROZEN, tensors_of
from agreement.running import REFERENCES, run_reference
from retentive.checkpoints.conversion import read_foreign

pytestmark = pytest.mark.slow  # `make agreement` installs the packages and runs this


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
