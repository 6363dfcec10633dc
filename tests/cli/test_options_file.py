"""Files of options: each option once, in either spelling, and every mistake named with the file."""

from pathlib import Path

import pytest

from retentive.cli.main import main
from retentive.cli.options.file import read_options, typed_or_in_file

NEEDED = "store: x\nrun: y\nsteps: 5\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "options.yaml"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("steps: 5\nrun: y\nsteps: 6\n", "{} gives the option steps twice, in lines 1 and 3: remove one."),
        (
            "optimizer:\n  learning-rate: 1\n  learning_rate: 2\n",
            "{} gives the option optimizer.learning_rate twice, in lines 2 and 3: remove one.",
        ),
        ("steps: [5\n", "{} is not YAML, line 2: "),
        ("- steps\n", '{} must hold options, one "name: value" a line, but holds none.'),
        ("", '{} must hold options, one "name: value" a line, but holds none.'),
        ("caf\xe9: 1", "{} must be UTF-8, but its byte 3 is not: convert it."),
        (NEEDED + "model: 3\n", "{}: model is a group of options, one 'name: value' a line below it, but is 3."),
        (NEEDED + "data:\n", "{}: data is a group of options, one 'name: value' a line below it, but is None."),
        ("steps: !!python/object:os.system x\n", "{} is not plain YAML, line 1: could not determine a constructor"),
        ("steps: &all [*all]\n", "{} must hold plain values, but one of them holds itself"),
        ("[a, b]: 1", "{}, line 1: the name of an option must be a word."),
        (NEEDED + "config: {steps: 6}\n", "{}: config stands on the command line alone"),
        (NEEDED + "config: other.yaml\n", "{}: config stands on the command line alone"),
        (NEEDED + "family: {a: 1}\n", "retentive train: family must be one of 'transformer', "),
        (NEEDED + "objective: [next_token]\n", "'matching', but is ['next_token'] (in {})."),
        (NEEDED + "objective: null\n", "'matching', but is null (in {})."),
        (NEEDED + "size: \n", "'6_7b', but is null (in {})."),
        (NEEDED + "family: ''\n", "'rmt', but is '' (in {})."),
        (NEEDED + "family: rmt\nbackbone: 3\n", "backbone must be one of 'transformer', 'retnet', 'hybrid', but is 3"),
        (NEEDED + "masked_tokens: {share: 0.2}\n", "(in {}); these are options of --objective masked_tokens."),
        (NEEDED + "stepz: 6\n", "Option 'stepz' is not accepted (in {}); did you mean --steps?"),
        (NEEDED + "optimizer: {learning-ratee: 1}\n", "(in {}); did you mean --optimizer.learning_rate?"),
        ("store: x\nrun: y\nsteps: many\n", "retentive train: steps must be a whole number, but is many (in {})."),
        (
            NEEDED + "optimizer: {learning-rate: -3}\n",
            "retentive: optimizer.learning_rate must be above 0, but is -3.0 (in {}).",
        ),
    ],
)
def test_a_mistake_is_named_with_its_file(file: Path, capsys: pytest.CaptureFixture[str], content: str, said: str):
    file.write_bytes(content.encode("latin-1"))
    assert said.format(file) in refused(capsys, "train", f"--config={file}")


def test_a_file_that_is_not_there_is_named(file: Path, capsys: pytest.CaptureFixture[str]):
    assert f"config {file} cannot be read (No such file or directory)" in refused(
        capsys, "train", "--config", str(file)
    )


def test_what_is_typed_counts_wherever_it_stands(file: Path, capsys: pytest.CaptureFixture[str]):
    file.write_text(NEEDED + "optimizer: {learning-rate: -3}\nfamily: rmt\n")
    for arguments in (
        (f"--config={file}", "--optimizer.learning-rate=-4"),
        ("--optimizer.learning-rate=-4", "--config", str(file)),
    ):
        assert "optimizer.learning_rate must be above 0, but is -4.0." in refused(capsys, "train", *arguments)
    asked = ["--family=retnet", "--config", str(file), "--config={optimizer: {learning_rate: -5}, family: yoco}"]
    assert typed_or_in_file(asked, "family") == "retnet"
    assert typed_or_in_file(asked[1:], "family") == "yoco"
    assert typed_or_in_file(asked[1:], "size") is None
    assert "learning_rate must be above 0, but is -5.0" in refused(capsys, "train", *asked)


def test_what_is_typed_takes_the_place_of_the_file_and_the_blame(file: Path, capsys: pytest.CaptureFixture[str]):
    file.write_text(NEEDED + "optimizer: {learning-rate: -3}\n")
    said = refused(capsys, "train", f"--config={file}", "--optimizer.learning-rate=-4")
    assert "optimizer.learning_rate must be above 0, but is -4.0.\n" in said


def test_hyphens_of_names_are_underscores_and_those_of_values_stay(file: Path):
    file.write_text('max-steps: 1e-4\n"quoted-name":\n  inner-name: a-b\nrun: x-y # a-comment\n')
    assert read_options(file) == {"max_steps": "1e-4", "quoted_name": {"inner_name": "a-b"}, "run": "x-y"}


def test_an_action_names_the_file_too(file: Path, capsys: pytest.CaptureFixture[str]):
    file.write_text("sorce: x\n")
    assert f"'sorce' (in {file})" in refused(capsys, "index", "build", "--config", str(file))


def test_a_family_in_a_file_decides_which_options_there_are(file: Path, capsys: pytest.CaptureFixture[str]):
    file.write_text(NEEDED + "family: rmt\nmodel:\n  num-memory-tokenz: 2\n")
    said = refused(capsys, "train", f"--config={file}")
    assert f"(in {file}); did you mean --model.num_memory_tokens?" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("learning-rate: 1\nlearning_rate: 2\n", "{} gives the option learning_rate twice, in lines 1 and 2: remove"),
        ("learning-rate: -3\n", "optimizer.learning_rate must be above 0, but is -3.0 (in {})."),
        ("\xef\xbb\xbflearning-rate: -1e-3\n", "optimizer.learning_rate must be above 0, but is -0.001 (in {})."),
        ("learning-ratee: 3\n", "(in {}); did you mean --optimizer.learning_rate?"),
        ("caf\xe9: 1", "{} must be UTF-8, but its byte 3 is not: convert it."),
        ("", '{} must hold options, one "name: value" a line, but holds none.'),
        ("beta1: [1\n", "{} is not YAML, line 2: "),
    ],
)
def test_a_file_for_a_group_of_options_is_read_as_any_other(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str], content: str, said: str
):
    (tmp_path / "group.yaml").write_bytes(content.encode("latin-1"))
    file.write_text(f"{NEEDED}optimizer: {tmp_path / 'group.yaml'}\nseed: 3\n")
    for given in ([f"--config={file}"], ["--store=x", "--run=y", "--steps=5", "--optimizer", ""]):
        typed = [argument or str(tmp_path / "group.yaml") for argument in given]
        assert said.format(tmp_path / "group.yaml") in refused(capsys, "train", *typed)


def test_yaml_in_place_of_a_file_is_held_to_the_same(capsys: pytest.CaptureFixture[str]):
    twice = "optimizer: {learning-rate: 1, learning_rate: 2}"
    said = refused(capsys, "train", "--config", f"{{store: x, run: y, steps: 5, {twice}}}")
    assert "config gives the option optimizer.learning_rate twice" in said
    needed = ["--store=x", "--run=y", "--steps=5"]
    said = refused(capsys, "train", *needed, "--optimizer={learning-rate: 1, learning_rate: 2}")
    assert "--optimizer gives the option learning_rate twice" in said
    said = refused(capsys, "train", *needed, "--optimizer", "{learning-rate: -3}")
    assert "optimizer.learning_rate must be above 0, but is -3.0." in said
