"""The works of a model in llama.cpp, by the functions of its C library that ``llama-cpp-python`` (0.3.36) hands on.

They are what its ``llama-bench`` times: nothing of Python stands between two steps but the choice of the next token,
which numpy takes from the logits.
"""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from benchmarks.racing.worker import Work


def works(*, source: str, file: str, threads: int, rows: int, room: int) -> Mapping[str, Callable[..., Work]]:
    """The works, over a model in Q8_0.

    Args:
        source: A GGUF file of any weights.
        file: The same in Q8_0; it is made where it is not there.
        threads: Of each step.
        rows: Texts side by side, at most.
        room: Tokens of each, at most.
    """
    llama_cpp.llama_backend_init()
    if not Path(file).exists():
        as_q8_0(Path(source), Path(file))
    model = Model(file, threads, rows, room)
    return {"decode": partial(_decode, model), "nats": partial(_nats, model)}


def as_q8_0(source: Path, target: Path) -> None:
    """Round the weights of a GGUF file to 8 bits by llama.cpp's own quantiser, whatever they were before."""
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0
    options.allow_requantize = True
    part = target.with_suffix(".part")
    if llama_cpp.llama_model_quantize(str(source).encode(), str(part).encode(), ctypes.byref(options)):
        raise RuntimeError(f"llama.cpp could not write {target} from {source}.")
    part.replace(target)


class Model:
    """A model and a context of llama.cpp.

    Attributes:
        size: Bytes of its weights.
    """

    def __init__(self, file: str, threads: int, rows: int, room: int) -> None:
        options = llama_cpp.llama_context_default_params()
        options.n_ctx, options.n_seq_max, options.n_batch = rows * room, rows, rows * room
        options.n_threads = options.n_threads_batch = threads
        self._model: Any = llama_cpp.llama_model_load_from_file(file.encode(), llama_cpp.llama_model_default_params())
        self._context: Any = llama_cpp.llama_init_from_model(self._model, options)
        if not self._context:
            raise RuntimeError(f"llama.cpp could not open {file}.")
        self._batch = llama_cpp.llama_batch_init(rows * room, 0, 1)
        self._vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self.size = llama_cpp.llama_model_size(self._model)

    def forget(self, begin: int) -> None:
        """Forget all that was read from a position on, of every row."""
        llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(self._context), -1, begin, -1)

    def read(self, rows: Sequence[Sequence[int]], begin: int) -> np.ndarray:
        """Read equally many tokens of each row; the logits after each row's last one."""
        batch, number = self._batch, 0
        wanted: list[int] = []
        for row, tokens in enumerate(rows):
            for place, token in enumerate(tokens, begin):
                batch.token[number], batch.pos[number] = token, place
                batch.n_seq_id[number], batch.seq_id[number][0] = 1, row
                batch.logits[number] = False
                number += 1
            batch.logits[number - 1] = True
            wanted.append(number - 1)
        batch.n_tokens = number
        if llama_cpp.llama_decode(self._context, batch):
            raise RuntimeError("llama.cpp could not read tokens.")
        found = (llama_cpp.llama_get_logits_ith(self._context, place) for place in wanted)
        return np.stack([np.ctypeslib.as_array(logits, (self._vocab,)) for logits in found])


def _decode(model: Model, *, tokens: Sequence[int], batch: int, steps: int) -> Work:
    """Greedy tokens after some; each repetition starts from the same keys and values."""
    model.forget(0)
    first = model.read([tokens] * batch, 0).argmax(1)

    def run() -> None:
        model.forget(len(tokens))
        chosen = first
        for place in range(len(tokens), len(tokens) + steps):
            chosen = model.read(chosen[:, None].tolist(), place).argmax(1)

    return Work(run=run, units=steps, facts={"step_bytes": float(model.size)})


def _nats(model: Model, *, tokens: Sequence[int], read: int) -> Work:
    """Nats a token of a text, after ``read`` tokens of it."""
    model.forget(0)
    (logits,), lost = model.read([tokens[:read]], 0), 0.0
    for place in range(read, len(tokens)):
        shifted = logits.astype(np.float64) - logits.max()
        lost += float(np.log(np.exp(shifted).sum()) - shifted[tokens[place]])
        (logits,) = model.read([tokens[place : place + 1]], place)
    return Work(run=lambda: None, facts={"nats": lost / (len(tokens) - read)})
