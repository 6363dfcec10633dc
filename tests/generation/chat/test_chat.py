"""Conversations: every turn reads its own tokens alone, whatever was said before."""

import io
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from laws.families import small_config, small_model
from retentive.checkpoints import load_model, save_model
from retentive.cli.commands import chat
from retentive.cli.interrupts import Interrupts
from retentive.cli.main import main
from retentive.errors import DamagedFileError, MismatchError
from retentive.files import full_disk
from retentive.generation.chat.conversation import Chat, Conversation
from retentive.generation.chat.sessions import list_sessions, load_conversation, save_conversation, session_path
from retentive.generation.generator import generate
from retentive.generation.text_stream import TextStream
from retentive.models.base import DecoderModel
from retentive.text.chat_template import ChatTemplate
from retentive.text.subword_tokenizer import SubwordTokenizer
from text.vocabularies import SMOLLM, chat_tokenizer, chat_vocabulary

FAMILIES = ["retnet", "transformer", "rmt"]


@pytest.fixture(scope="module")
def tokenizer() -> SubwordTokenizer:
    return chat_tokenizer()


@pytest.fixture(scope="module")
def template(tokenizer: SubwordTokenizer) -> ChatTemplate:
    return ChatTemplate(SMOLLM, tokenizer)


def model_of(family: str, tokenizer: SubwordTokenizer) -> DecoderModel:
    if family == "rmt":
        return small_model(family, backbone=small_config("transformer", vocab_size=tokenizer.vocab_size))
    return small_model(family, vocab_size=tokenizer.vocab_size)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_fiftieth_turn_reads_its_own_tokens_only(family: str, tokenizer, template):
    model = model_of(family, tokenizer)
    chat, talk = Chat(model, tokenizer, template, max_new_tokens=2), Conversation()
    read: list[int] = []
    table = next(module for name, module in model.named_modules() if name.endswith("embedding.tokens"))
    table.register_forward_hook(lambda module, inputs, output: read.append(inputs[0].numel()))
    for turn in range(50):
        before, said = sum(read), f"{turn}" * 3
        answer = chat.answer(talk, said)
        "".join(answer)
        talk = answer.conversation
        # The newest token of an answer that was cut off is read in the next turn.
        assert sum(read) - before == answer.num_read + answer.num_written - 1
        if turn:
            rest = f"<|im_end|>\n<|im_start|>user\n{said}<|im_end|>\n<|im_start|>assistant\n"
            assert answer.num_read == 1 + len(tokenizer.encode_prompt(rest, tags=True, around=False))
    assert talk.turns == 50


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("ends", [True, False], ids=["ends", "cut off"])
def test_an_answer_is_that_to_the_whole_conversation(family: str, ends: bool, tokenizer, template):
    model = model_of(family, tokenizer)
    first = template.encode([{"role": "user", "content": "Hi"}])
    written = generate(model, first, max_new_tokens=3).tokens[0].tolist()
    chat = Chat(model, tokenizer, template, max_new_tokens=3, ends=written[-1:] if ends else [])
    answer = chat.answer(Conversation(), "Hi")
    "".join(answer)
    length = written.index(written[-1]) + 1 if ends else 3
    assert (answer.ended, answer.num_written) == (ends, length)
    # The token that ends an answer is written by the template, the others by the model.
    kept = written[: length - ends]
    talk = answer.conversation
    again = chat.answer(talk, "And?")
    "".join(again)
    rest = template.encode_after_answer(talk.messages, [{"role": "user", "content": "And?"}])
    whole = generate(model, [*first, *kept, *rest], max_new_tokens=again.num_written)
    assert again.conversation.state.unread.tolist() == whole.state.unread.tolist()
    assert int(again.conversation.state.model.position[0]) == int(whole.state.model.position[0])
    # A fork goes on from the same place.
    fork = chat.answer(talk, "And?")
    assert "".join(fork) == again.conversation.messages[-1]["content"]


def test_a_turn_that_was_not_answered_is_not_kept(tokenizer, template):
    chat = Chat(model_of("retnet", tokenizer), tokenizer, template, max_new_tokens=2)
    assert chat.answer(Conversation(), "Hi").conversation == Conversation()
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1, but is 0"):
        Chat(model_of("retnet", tokenizer), tokenizer, template, max_new_tokens=0)


def test_a_conversation_is_read_back_and_others_are_refused(tmp_path: Path, tokenizer, template):
    model = model_of("retnet", tokenizer)
    chat = Chat(model, tokenizer, template, max_new_tokens=2)
    answer = chat.answer(Conversation(), "Hi, naïve 猫")
    "".join(answer)
    path = session_path(tmp_path / "chats", "one")
    with pytest.raises(ValueError, match="must have an answer before it is saved as"):
        save_conversation(Conversation(), path, model)
    save_conversation(answer.conversation, path, model)
    back = load_conversation(path, model)
    assert (back.messages, back.ended, back.tokens_read) == (answer.conversation.messages, False, answer.num_read + 2)
    assert "".join(chat.answer(back, "x")) == "".join(chat.answer(answer.conversation, "x"))
    path.with_name("two.safetensors").write_bytes(path.read_bytes()[:100])
    lines = {one.name: one for one in list_sessions(path.parent)}
    assert (lines["one"].said, lines["one"].turns, lines["one"].tokens_read) == ("Hi, naïve 猫", 1, back.tokens_read)
    assert "two.safetensors cannot be read" in lines["two"].said
    with pytest.raises(MismatchError, match="is the state of another model"):
        load_conversation(path, model_of("transformer", tokenizer))
    with pytest.raises(ValueError, match=r"session must have a name of letters.*but is '../x'"):
        session_path(tmp_path, "../x")
    assert list_sessions(tmp_path / "none") == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: SubwordTokenizer) -> Path:
    folder = tmp_path_factory.mktemp("chat") / "model"
    save_model(model_of("retnet", tokenizer), folder, tokenizer)
    return folder


def talk(folder: Path, monkeypatch: pytest.MonkeyPatch, *lines: str, session: str = "one") -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    place = ["--folder", str(folder.parent / "chats"), "--session", session]
    main(["chat", str(folder), *place, "--temperature", "0", "--max-new-tokens", "3", "--show-tokens"])


def test_in_the_terminal(folder: Path, tmp_path: Path, monkeypatch, capsys):
    talk(
        folder,
        monkeypatch,
        "Hi",
        "/sessions",
        "And?",
        "/fork",
        "Again?",
        "/sources",
        "/save",
        "/nothing",
        f"/save {folder / 'config.json'}",
    )
    first = capsys.readouterr()
    assert "conversation one (new)" in first.err
    assert re.search(r"^one +1 answer +\d", first.out, re.MULTILINE)
    assert "one stays as it is; this is one-2." in first.err
    assert first.err.count("0 of them again; wrote 3") == 3
    assert "there are no sources: the model reads no datastore" in first.err
    assert "there is no /nothing: /help lists what there is." in first.err
    assert "config.json already, which is no conversation: give another name." in first.err
    assert load_model(folder)
    assert "kept: go on with --session one-2" in first.err
    monkeypatch.setenv("HOME", str(tmp_path))
    talk(folder, monkeypatch, "Again?", "/save ~/x.safetensors", "/save ~/x.safetensors", "/resume one-2", "/fork one")
    second = capsys.readouterr()
    assert "conversation one (2 answers, " in second.err
    assert first.out.splitlines()[-1] == second.out.splitlines()[-1], "a fork and what was forked answer alike"
    assert "conversation one-2 (3 answers, " in second.err
    assert "there is a conversation one already" in second.err
    main(["chat", str(folder), "--list", "--folder", str(folder.parent / "chats")])
    listed = capsys.readouterr().out
    assert [line.split()[0] for line in listed.splitlines()] == ["one-2", "one"]
    state = ["--state", str(tmp_path / "x.safetensors"), "--chat", "--prompt", "More?"]
    main(["generate", str(folder), *state, "--temperature", "0", "--max-new-tokens", "3"])
    said = capsys.readouterr().out.rstrip("\n\ufffd")
    talk(folder, monkeypatch, "More?")
    assert capsys.readouterr().out.rstrip("\n\ufffd") == said, "generate --chat goes on as chat does"


def test_what_was_not_kept_is_never_said_to_be(folder: Path, monkeypatch, capsys):
    """Where a disk is full: leaving for another conversation, a copy and the end try again, and tell."""
    path = folder.parent / "chats" / "full.safetensors"

    def full(*given: object) -> None:
        raise full_disk(path)

    monkeypatch.setattr(chat, "save_conversation", full)
    with pytest.raises(SystemExit) as stop:
        talk(folder, monkeypatch, "Hi", "/fork two", "/resume other", "/quit", session="full")
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.count("free some space") == 4
    assert "kept" not in said
    assert "stays as it is" not in said

    def room(number: int) -> None:
        if number == 2:  # as the second line is read
            monkeypatch.setattr(chat, "save_conversation", save_conversation)

    for last in ("/quit", "/fork two", "/resume none"):
        monkeypatch.setattr(chat, "save_conversation", full)
        lines = iter([(1, "Hi"), (2, last), (3, None)])

        def line(lines: Iterator[tuple[int, str | None]] = lines) -> str | None:
            number, text = next(lines)
            room(number)
            return text

        monkeypatch.setattr(chat, "_line", line)
        main(["chat", str(folder), "--folder", str(path.parent), "--session", "full", "--max-new-tokens", "3"])
        assert load_conversation(path, load_model(folder)).turns == 1
        path.unlink()
    assert capsys.readouterr().err.count("kept: go on with") == 3


def test_what_cannot_be_said(folder: Path, tmp_path: Path, capsys, tokenizer):
    bare = tmp_path / "bare"
    save_model(model_of("retnet", tokenizer), bare)
    cases = {
        "has no chat template": ["generate", "x", "--chat", "--prompt", "Hi"],
        "prompt must be given for chat": ["generate", str(folder), "--chat"],
        "chat must begin with this call for system": ["generate", str(folder), "--prompt", "a", "--system", "b"],
        "store must be given for k": ["chat", str(folder), "--k", "3"],
        "there is no tokenizer file": ["chat", str(bare)],
    }
    plain = SubwordTokenizer(chat_vocabulary().to_str(), name="file", end_of_text="<|endoftext|>")
    save_model(model_of("retnet", tokenizer), tmp_path / "plain", plain)
    cases["has no chat template"][1] = str(tmp_path / "plain")
    for said, arguments in cases.items():
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        assert said in capsys.readouterr().err


def test_a_file_without_a_conversation_is_no_session(folder: Path, tmp_path: Path, capsys):
    options = ["--prompt", "Hi", "--max-new-tokens", "2", "--save-state", str(tmp_path / "one.safetensors")]
    main(["generate", str(folder), *options])
    with pytest.raises(DamagedFileError, match="is a state without a conversation: go on from it with generate"):
        load_conversation(tmp_path / "one.safetensors", small_model("retnet"))
    capsys.readouterr()


def test_the_first_interrupt_is_noted_and_the_second_raises():
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def interrupt_at(monkeypatch: pytest.MonkeyPatch, *tokens: int) -> None:
    """Press Ctrl-C while tokens of these numbers are written."""
    pushed: list[int] = []
    push = TextStream.push

    def interrupted(stream: TextStream, token: int) -> str:
        pushed.append(token)
        for _ in range(tokens.count(len(pushed))):
            os.kill(os.getpid(), signal.SIGINT)
        return push(stream, token)

    monkeypatch.setattr(TextStream, "push", interrupted)


def test_an_interrupt_stops_an_answer_and_keeps_the_conversation(folder: Path, monkeypatch, capsys):
    interrupt_at(monkeypatch, 2)
    monkeypatch.setattr("sys.stdin", io.StringIO("Hi\n"))
    place = ["--folder", str(folder.parent / "stopped"), "--session", "one", "--max-new-tokens", "50"]
    main(["chat", str(folder), *place, "--temperature", "0", "--show-tokens"])
    said = capsys.readouterr().err
    assert "wrote 2 (" in said
    assert "kept: go on with --session one" in said


def test_a_second_interrupt_drops_the_turn_and_the_next_goes_on_before_it(folder: Path, monkeypatch, capsys):
    talk(folder, monkeypatch, "Hi", "Again?", session="whole")
    wanted = capsys.readouterr().out.splitlines()
    talk(folder, monkeypatch, "Hi", session="torn")
    interrupt_at(monkeypatch, 2, 2)
    talk(folder, monkeypatch, "What?", "Again?", session="torn")
    said = capsys.readouterr()
    assert "nothing of this turn is kept" in said.err
    assert said.out.splitlines()[-1] == wanted[-1]


def test_an_interrupt_where_nothing_is_written_drops_the_line_alone(folder: Path, monkeypatch, capsys):
    class Typed(io.StringIO):
        pressed = 0

        def isatty(self) -> bool:
            return True

        def readline(self, size: int = -1, /) -> str:
            Typed.pressed += 1
            if Typed.pressed == 2:
                raise KeyboardInterrupt
            return super().readline(size)

    monkeypatch.setattr("sys.stdin", Typed("Hi\nAgain?\n"))
    main(["chat", str(folder), "--folder", str(folder.parent / "typed"), "--max-new-tokens", "2", "--session", "one"])
    said = capsys.readouterr().err
    assert "nothing is being written; Ctrl-D ends." in said
    assert list_sessions(folder.parent / "typed")[0].turns == 2


def test_a_terminal_that_lacks_characters_ends_no_answer(folder: Path, monkeypatch, capsys):
    shown = io.BytesIO()
    with monkeypatch.context() as context:
        context.setattr("sys.stdout", io.TextIOWrapper(shown, "ascii"))
        talk(folder, context, "\u00e9", "/sessions", session="ascii")
        sys.stdout.flush()
        lines = shown.getvalue().decode().splitlines()
    assert lines[-1].split()[-1] == "?"
    assert "encode" not in capsys.readouterr().err


def test_what_is_no_file_is_no_conversation(tmp_path: Path):
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "nowhere.safetensors").symlink_to(tmp_path / "none")
    (tmp_path / "other.safetensors").write_bytes(b"no state")
    assert [line.name for line in list_sessions(tmp_path)] == ["other"]
