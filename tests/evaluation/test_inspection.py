"""What `inspect` tells is what the model is and carries."""

import math
from pathlib import Path

import pytest
import torch

from laws.families import case_name, cases, random_tokens, small_model
from retentive.checkpoints import save_model
from retentive.cli.main import main
from retentive.evaluation.inspection import inspect_model

EVERY_CASE = pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)


@EVERY_CASE
def test_parameters_and_states_are_counted_right(family: str, changes: dict, tmp_path: Path):
    model = small_model(family, dtype=torch.float32, **changes)
    save_model(model, tmp_path)
    found = inspect_model(tmp_path, contexts=(1, 7, 30))
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (found.family, found.dtype, found.contexts) == (family, torch.float32, (1, 7, 30))
    for context, size in zip(found.contexts, found.state_bytes, strict=True):
        with torch.no_grad():
            assert size == model(random_tokens(1, context)).state.size_in_bytes
    for place, size in enumerate(found.state_bytes):
        assert sum(part.sizes[place] for part in found.carried) == size


def test_a_cache_grows_and_a_state_stays(tmp_path: Path):
    grows = {}
    for family in ("transformer", "retnet"):
        save_model(small_model(family), tmp_path / family)
        found = inspect_model(tmp_path / family)
        grows[family] = {part.name: part.grows for part in found.carried}
        assert found.contexts[-1] == 4096
    assert grows["transformer"]["layers.0-1"]
    assert not any(grows["retnet"].values())


def test_what_begins_again_with_each_segment_does_not_grow(tmp_path: Path):
    save_model(small_model("rmt"), tmp_path)
    found = inspect_model(tmp_path, contexts=(1, 16, 64))
    assert found.state_bytes[-1] > found.state_bytes[-2]  # the last text ends further on in its segment
    assert not any(part.grows for part in found.carried)


def test_half_lives_are_those_of_the_decays(tmp_path: Path):
    save_model(small_model("retnet", log_decay=(math.log(0.5), 0.0)), tmp_path)
    found = inspect_model(tmp_path)
    assert found.half_lives == (pytest.approx(1.0), math.inf)
    (chart,) = found._half_life_chart()
    assert chart.groups == ("head 0",)
    assert "1 heads that never forget are left out" in chart.caption
    save_model(small_model("transformer"), tmp_path)
    assert inspect_model(tmp_path).half_lives is None


def test_half_lives_are_found_behind_other_mixers(tmp_path: Path):
    save_model(small_model("hybrid", pattern=("attention", "retention")), tmp_path)
    found = inspect_model(tmp_path).half_lives
    assert found is not None
    assert all(life > 0 for life in found)


def test_learned_positions_end_the_measurement(tmp_path: Path):
    save_model(small_model("transformer", positions="learned", max_positions=64), tmp_path)
    assert inspect_model(tmp_path).contexts[-1] == 64


def test_the_command_prints_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    save_model(small_model("retnet"), tmp_path)
    main(["inspect", str(tmp_path)])
    printed = capsys.readouterr().out
    for words in ("retnet, 6", "decoder.blocks.*.mixer", "tokens read before", "layers.0-1", "half of what a head"):
        assert words in printed
    page = (tmp_path / "inspect" / "report.html").read_text()
    for title in ("Parameters by part", "State size against context", "Which layers carry what", "Half-lives"):
        assert title in page
    assert list((tmp_path / "inspect").rglob("*.png")) or "data:image/png" in page
