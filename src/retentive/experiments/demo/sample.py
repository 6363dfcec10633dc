"""The last step of the demo: text is streamed, and its state goes on in a new process."""

import subprocess
import sys
from pathlib import Path

from retentive.checkpoints import save_state
from retentive.data.token_store import TokenStore
from retentive.evaluation.measures.documents import select_documents
from retentive.experiments.demo.report import Sample
from retentive.generation import Sampling, stream
from retentive.generation.text_stream import TextStream
from retentive.models.protocol import LanguageModel

SAMPLE_TOKENS, RESUMED_TOKENS = 300, 100
SAMPLING = Sampling(temperature=0.7, top_p=0.95, seed=1)


def stream_and_go_on(model: LanguageModel, folder: Path, store: TokenStore, session: Path) -> Sample:
    """Write text, save the state half-way, and let a new process go on from it.

    Args:
        model: The model that writes.
        folder: Folder where the model is saved, which the new process loads.
        store: Whose held-out text gives the prompt.
        session: File of the state.

    Raises:
        RuntimeError: If the new process fails or writes other tokens.
    """
    tokenizer = store.tokenizer
    prompt = _first_words(store)
    ids = [tokenizer.end_of_text, *tokenizer.encode(prompt)]
    print(prompt, end="", flush=True)
    tokens = stream(model, ids, max_new_tokens=SAMPLE_TOKENS + RESUMED_TOKENS, sampling=SAMPLING)
    text, written, resumed = TextStream(tokenizer), "", ""
    for number, (token,) in enumerate(tokens):
        assert token is not None
        piece = text.push(token)
        if number < SAMPLE_TOKENS:
            print(piece, end="", flush=True)
            written += piece
        else:
            resumed += piece
        if number == SAMPLE_TOKENS - 1:
            save_state(tokens.state, session, model)
    found = _go_on(folder, session)
    print(found)
    same = found.strip() == (resumed + text.finish()).strip()
    print(f"  a new process read {session} and wrote {'the same' if same else 'OTHER'} tokens as this one")
    if not same:
        raise RuntimeError(f"the state in {session} did not go on as an uninterrupted run does; please report this.")
    return Sample(prompt=prompt, text=written, resumed=found, session=session)


def _go_on(folder: Path, session: Path) -> str:
    options = {
        "checkpoint": folder,
        "state": session,
        "max_new_tokens": RESUMED_TOKENS,
        "temperature": SAMPLING.temperature,
        "top_p": SAMPLING.top_p,
        "seed": SAMPLING.seed,
        "stop_at_end": "false",
        "device": "cpu",
    }
    words = [f"--{name}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "retentive.cli.main", "generate", *words]
    run = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if run.returncode:
        raise RuntimeError(f"going on in a new process failed: {run.stderr.strip()}")
    return run.stdout.removesuffix("\n")


def _first_words(store: TokenStore) -> str:
    """The first line of a held-out document, for the model to go on from."""
    documents = select_documents(store)
    longest = documents.numbers[int(documents.lengths.argmax())]
    text = store.tokenizer.decode(documents.text(int(longest))[:40].tolist())
    return text[: len(text) // 2]
