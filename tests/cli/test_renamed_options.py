"""Options by the names that they had before: typed, in files and in the YAML of ``--config``, told once each."""

from pathlib import Path

import pytest

from retentive.cli.commands import train
from retentive.cli.main import main
from retentive.cli.options.file import typed_or_in_file
from retentive.cli.options.from_config import CommandParser
from retentive.cli.options.model import read_model_options, starting_config
from retentive.cli.options.renamed import with_new_names, yaml_with_new_names

NAMES = {"base": "backbone", "model.base": "model.backbone"}
OLD = """family: retro
base: retnet # a kind
model:
  "base": {hidden_size: 16, num_heads: 2}
  cross_layers: [1]
model.base.num_layers: 1
"""
NEW = """family: retro
backbone: retnet # a kind
model:
  backbone: {hidden_size: 16, num_heads: 2}
  cross_layers: [1]
model.backbone.num_layers: 1
"""


def test_typed_names_are_those_of_today(capsys: pytest.CaptureFixture[str]):
    typed = ["--base", "retnet", "--model.base.num_heads=2", "--model.baseline=1", "--prompt", "base"]
    found = with_new_names(typed, NAMES)
    assert found == ["--backbone", "retnet", "--model.backbone.num_heads=2", "--model.baseline=1", "--prompt", "base"]
    said = capsys.readouterr().err.splitlines()
    assert sorted(said) == [
        "retentive: --base is called --backbone now.",
        "retentive: --model.base.num_heads is called --model.backbone.num_heads now.",
    ]
    assert with_new_names(found, NAMES) == found
    assert with_new_names(typed, {}) == typed
    with pytest.raises(ValueError, match="--backbone must not be given with --base, its former name"):
        with_new_names(["--base=retnet", "--backbone=retnet"], NAMES)


def test_names_in_yaml_are_those_of_today_and_all_else_stays(capsys: pytest.CaptureFixture[str]):
    assert yaml_with_new_names(OLD, NAMES, "a.yaml") == NEW
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(" is called")[0] for line in said] == [
        f"retentive: a.yaml: {name}" for name in ("base", "model.base", "model.base.num_layers")
    ]
    assert yaml_with_new_names(NEW, NAMES, "a.yaml") == NEW
    assert yaml_with_new_names("{base: yoco}", NAMES, "config") == "{backbone: yoco}"
    shared = "model: &all\n  base: {}\nother: *all\n"
    assert yaml_with_new_names(shared, NAMES, "a.yaml") == shared.replace("base", "backbone")
    with pytest.raises(ValueError, match=r"a.yaml must not give model.base and model.backbone, its name of today"):
        yaml_with_new_names("model:\n  base: {}\n  backbone: {}\n", NAMES, "a.yaml")


def test_training_takes_the_options_of_before(tmp_path: Path):
    (tmp_path / "old.yaml").write_text(OLD.replace("model.base.num_layers: 1\n", ""))
    typed = ["--family=retro", "--base=retnet", "--model.base.hidden_size=16", "--model.base.num_heads=2"]
    for given in (
        ["--config", str(tmp_path / "old.yaml"), "--model.base.num_layers=1"],
        [
            f"--config={{{', '.join(OLD.replace(' # a kind', '').splitlines()[:2])}}}",
            *typed[2:],
            "--model.cross_layers=[1]",
        ],
        [*typed, "--model.base.num_layers=1", "--model.cross_layers=[1]"],
    ):
        parser = CommandParser(prog="retentive train")
        train.add_options(parser, given)
        options = parser.parse_args(with_new_names([*given, "--store=x", "--run=y", "--steps=1"], parser.renamed))
        start = starting_config("retro", "tiny", "retnet", None, None)
        config = read_model_options(start, options.model.as_dict(), 257)
        assert (config.backbone.family, config.backbone.hidden_size) == ("retnet", 16)


def test_both_names_are_refused_and_a_family_without_them_knows_none(capsys: pytest.CaptureFixture[str]):
    for arguments, said in (
        (
            ["--family=retro", "--base=retnet", "--backbone=retnet"],
            "retentive: --backbone must not be given with --base",
        ),
        (["--family=retro", "--config={base: retnet, backbone: retnet}"], "config must not give base and backbone"),
        (["--family=retro", "--model.backbon.num-heads=2"], "did you mean --model.backbone.num_heads?"),
        (["--family=rmt", "--base=retnet"], "nrecognized arguments: --base=retnet"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["train", "--store=x", "--run=y", "--steps=1", *arguments])
        assert stop.value.code == 2
        assert said in capsys.readouterr().err
    assert typed_or_in_file(["--base", "yoco"], "backbone", "base") == "yoco"
    assert typed_or_in_file(["--config={base: yoco}"], "backbone", "base") == "yoco"
    assert typed_or_in_file(["--base", "yoco"], "backbone") is None
