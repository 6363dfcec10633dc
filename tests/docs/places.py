"""Where the pages are run: what a reader is taken to have at hand, in small."""

import shutil
import sysconfig
from pathlib import Path

from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from checkpoints.foreign import frozen
from docs.texts import shorten
from laws.families import small_model
from retentive.checkpoints import save_model
from retrieval.small_models import make_model
from text.vocabularies import chat_tokenizer


def make_place(page: str, folder: Path) -> None:
    """The files that a page names and does not make, in an empty folder.

    Args:
        page: Its path in ``docs/``.
        folder: Where it is run.
    """
    if not page.startswith("tutorials/"):
        _copy_texts(folder)
    if page == "guide/datastore.md":
        make_model(folder / "bert-base-cased")  # a folder is looked for before a hub is
    if page == "how-to/chat.md":
        tokenizer = chat_tokenizer()
        save_model(small_model("retnet", vocab_size=tokenizer.vocab_size), folder / "talker", tokenizer)
    if page == "migrating.md":
        frozen("fla-1e-06").write(folder / "path" / "to" / "retnet-1.3B-100B")
    if page in ("migrating.md", "how-to/remember.md"):
        _make_gpt2(folder)


def _copy_texts(folder: Path) -> None:
    """Real text under the names that the pages use."""
    files = sorted((Path(sysconfig.get_paths()["stdlib"]) / "email").glob("*.py"))
    for number, file in enumerate(files[:12]):
        place = folder / ("my_texts" if number < 9 else "more_texts")
        place.mkdir(exist_ok=True)
        shutil.copy(file, place / f"{number}.txt")
    for name in ("my_texts", "more_texts"):
        shorten(folder / name)


def _make_gpt2(folder: Path) -> None:
    """A small GPT-2 as Hugging Face lays it out."""
    tokenizer = ByteLevelBPETokenizer()
    files = [str(file) for file in sorted((folder / "my_texts").iterdir())]
    tokenizer.train(files, vocab_size=400, special_tokens=["<|endoftext|>"], show_progress=False)
    config = GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(folder / "gpt2-folder")
    tokenizer.save(str(folder / "gpt2-folder" / "tokenizer.json"))
