"""Options whose values count to the letter: what is typed is never read as YAML."""

from pathlib import Path

import pytest
from jsonargparse import Namespace

from retentive.cli.commands import generate
from retentive.cli.main import main
from retentive.cli.options.from_config import CommandParser, read_config
from retentive.generation.session import GenerateConfig


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[GenerateConfig]:
    """The config of each call, in place of a text."""
    found: list[GenerateConfig] = []

    def take(parser: CommandParser, options: Namespace) -> None:
        found.append(read_config(parser, options, GenerateConfig))

    monkeypatch.setattr(generate, "run", take)
    return found


@pytest.mark.parametrize(
    ("typed", "stops"),
    [
        ([], ()),
        *(
            ([f"--stop={text}"], (text,))
            for text in ("[DONE]", "[INST]", "- a", "[]", "--", "null", '["a"]', "3", "{}")
        ),
        (["--stop", "[DONE]", "--stop=- b"], ("[DONE]", "- b")),
    ],
)
def test_what_is_typed_is_a_stop_string_to_the_letter(
    taken: list[GenerateConfig], typed: list[str], stops: tuple[str, ...]
):
    main(["generate", "model", *typed])
    assert taken[0].stop_strings == stops


@pytest.mark.parametrize("text", ["null", "[1]", "--", "true", "1.0"])
def test_a_prompt_counts_to_the_letter(taken: list[GenerateConfig], text: str):
    main(["generate", "model", f"--prompt={text}", "--chat", f"--system={text}"])
    assert (taken[0].prompt, taken[0].system) == (text, text)


def test_a_file_gives_texts_too_and_what_is_typed_takes_their_place(tmp_path: Path, taken: list[GenerateConfig]):
    file = tmp_path / "options.yaml"
    for content, stops in (('"[DONE]"', ("[DONE]",)), ('["[DONE]", "- b"]', ("[DONE]", "- b"))):
        file.write_text(f"stop: {content}\nprompt: a\n")
        main(["generate", "model", "--config", str(file)])
        assert (taken[-1].stop_strings, taken[-1].prompt) == (stops, "a")
        main(["generate", "model", "--stop", "c", "--prompt", "null", "--config", str(file)])
        assert (taken[-1].stop_strings, taken[-1].prompt) == (("c",), "null")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("stop: []", "stop must be a text in quotes or a list of at least one, but is [] (in {})"),
        ("stop: 3", "stop must be a text in quotes or a list of at least one, but is 3 (in {})"),
        ("stop: [a, 3]", "stop must be a text in quotes or a list of at least one, but is ['a', 3] (in {})"),
        ('stop: ["a", ""]', "every stop string must have at least one character"),
        ("prompt: 12", "prompt must be a text, but is 12: quote it (in {})"),
        ("logit_bias: 1:30", "logit_bias must be a text, but is 90: quote it (in {})"),
        ("logit_bias: {{1: 2}}", "logit_bias must be a text, but is {{1: 2}}: quote it (in {})"),
    ],
)
def test_what_is_no_text_is_refused(
    tmp_path: Path, taken: list[GenerateConfig], capsys: pytest.CaptureFixture[str], content: str, message: str
):
    file = tmp_path / "options.yaml"
    file.write_text(content.format() + "\n")
    with pytest.raises(SystemExit) as ended:
        main(["generate", "model", "--config", str(file)])
    assert ended.value.code == 2
    assert message.format(file) in capsys.readouterr().err
    assert not taken
