"""Writing: what is refused, what a kill and a full disk leave."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from retentive.data.manifest import MANIFEST_FILE
from retentive.data.token_store import TokenStore
from retentive.data.token_store_writer import TokenStoreWriter
from retentive.errors import DamagedFileError
from retentive.text.byte_tokenizer import ByteTokenizer


def ids(text):
    return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.uint32)


def write_store(folder, text, **arguments):
    with TokenStoreWriter(folder, ByteTokenizer(), **arguments) as writer:
        writer.add("one", ids(text), num_bytes=len(text), split="train")
        return writer.finish()


def text_of(folder):
    store = TokenStore.open(folder)
    store.verify()
    return store.tokenizer.decode(store.tokens("train").tolist())


def files_of(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def named_files(folder):
    return {record.path for record in TokenStore.open(folder).manifest.files.values()} | {MANIFEST_FILE}


def test_a_store_is_replaced_on_request_only(tmp_path):
    write_store(tmp_path, "old")
    with pytest.raises(FileExistsError, match=r"already holds another token store: choose another .* overwrite=True"):
        write_store(tmp_path, "new")
    assert text_of(tmp_path) == "old"
    write_store(tmp_path, "new", overwrite=True)
    assert text_of(tmp_path) == "new"
    assert files_of(tmp_path) == named_files(tmp_path)


def test_an_old_reader_keeps_its_tokens(tmp_path):
    reader = write_store(tmp_path, "old")
    tokens = reader.tokens("train")
    write_store(tmp_path, "new", overwrite=True)
    assert reader.tokenizer.decode(tokens.tolist()) == "old"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["notes.txt", "manifest.json", "model.tmp"])
def test_a_folder_of_something_else_is_left_alone(tmp_path, name, overwrite):
    (tmp_path / name).write_text("{}")
    with pytest.raises(
        FileExistsError, match=rf"holds files of something else \({name}\): choose a new or empty folder"
    ):
        write_store(tmp_path, "new", overwrite=overwrite)
    assert (tmp_path / name).read_text() == "{}"
    assert files_of(tmp_path) == {name}


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):
        write_store(tmp_path / "file", "new")


def test_a_damaged_store_can_be_replaced(tmp_path):
    write_store(tmp_path, "old")
    manifest = tmp_path / MANIFEST_FILE
    manifest.write_text(manifest.read_text()[:-20])
    write_store(tmp_path, "old", overwrite=True)
    assert text_of(tmp_path) == "old"
    assert files_of(tmp_path) == named_files(tmp_path)


def test_a_writer_that_fails_leaves_the_old_store_and_no_rest(tmp_path):
    write_store(tmp_path, "old")
    before = files_of(tmp_path)

    def fail():
        with TokenStoreWriter(tmp_path, ByteTokenizer(), overwrite=True) as writer:
            writer.add("one", ids("new"), num_bytes=3, split="train")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert text_of(tmp_path) == "old"
    assert files_of(tmp_path) == before


def test_a_writer_that_is_not_finished_leaves_no_store(tmp_path):
    with TokenStoreWriter(tmp_path, ByteTokenizer()) as writer:
        writer.add("one", ids("new"), num_bytes=3, split="train")
    assert files_of(tmp_path) == set()
    with pytest.raises(DamagedFileError, match="no complete token store"):
        TokenStore.open(tmp_path)


def test_the_rest_of_a_killed_run_takes_no_place_while_the_next_one_writes(tmp_path):
    (tmp_path / "train-tokens-0123456789abcdef.bin").write_text("rest")
    (tmp_path / "manifest.json.tmp").write_text("rest")
    with TokenStoreWriter(tmp_path, ByteTokenizer()):
        assert all(path.stat().st_size == 0 for path in tmp_path.iterdir())


def test_a_second_writer_is_refused(tmp_path):
    with TokenStoreWriter(tmp_path, ByteTokenizer()) as writer:
        writer.add("one", ids("first"), num_bytes=5, split="train")
        with pytest.raises(BlockingIOError, match="another process is writing to this folder"):
            write_store(tmp_path, "second", overwrite=True)
        writer.finish()
    assert text_of(tmp_path) == "first"


def test_documents_that_cannot_be_are_refused(tmp_path):
    with TokenStoreWriter(tmp_path, ByteTokenizer()) as writer:
        with pytest.raises(ValueError, match="document 'a' must have at least one token, but has none"):
            writer.add("a", ids(""), num_bytes=0, split="train")
        with pytest.raises(ValueError, match="token ids of 'a' must be at most 256, but one is 257"):
            writer.add("a", np.asarray([257], dtype=np.uint32), num_bytes=1, split="train")
        with pytest.raises(ValueError, match=r"name must be one line, but is 'a\\nb'"):
            writer.add("a\nb", ids("a"), num_bytes=1, split="train")


# For each n a forked child writes a store and is killed at its n-th step in the file system, until one gets through.
KILLS = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {here!r})
from test_token_store_writer import write_store

def kill_at(n, folder):
    steps = 0

    def hook(event, arguments):
        nonlocal steps
        if event in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.listdir", "os.scandir"):
            if str(folder) in str(arguments[0]):
                steps += 1
                if steps == n:
                    os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)

for n in range(1, 200):
    folder = Path(sys.argv[1], str(n))
    if sys.argv[2] == "True":
        write_store(folder, "old")
    child = os.fork()
    if child == 0:
        kill_at(n, folder)
        write_store(folder, "new" * 1000, overwrite=True)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    print(n, status)
    if not os.WIFSIGNALED(status):
        break
"""

# Files may not grow beyond n bytes.
FULL_DISK = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {here!r})
from test_token_store_writer import write_store

resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    write_store(Path(sys.argv[1]), "new" * 1000, overwrite=True)
except OSError as error:
    print(error)
"""


def run(script: str, *arguments: object) -> str:
    command = [sys.executable, "-c", script.format(here=str(Path(__file__).parent)), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=250, check=True).stdout


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_kill_at_any_step_leaves_the_old_store_or_the_new_or_none(quick_folder, overwrite):
    root = Path(tempfile.mkdtemp(dir=quick_folder))
    *killed, last = run(KILLS, root, overwrite).splitlines()
    assert len(killed) > 20
    assert last.endswith(" 0")
    assert all(line.endswith(" 9") for line in killed)
    seen = set()
    for folder in root.iterdir():
        try:
            seen.add(text_of(folder)[:3])
        except (DamagedFileError, FileNotFoundError):
            seen.add("none")
        # Whatever the kill left, the next run makes the store whole and removes the rest.
        write_store(folder, "next", overwrite=True)
        assert text_of(folder) == "next"
        assert files_of(folder) == named_files(folder)
    assert seen == {"old" if overwrite else "none", "new"}


@pytest.mark.parametrize("limit", [0, 100, 1000, 5000])
def test_a_full_disk_is_named_and_leaves_the_old_store(tmp_path, limit):
    write_store(tmp_path, "old")
    before = files_of(tmp_path)
    said = run(FULL_DISK, tmp_path, limit)
    assert "while writing (cure: free some space or choose a folder on another disk" in said
    assert str(tmp_path) in said
    assert text_of(tmp_path) == "old"
    assert files_of(tmp_path) == before
