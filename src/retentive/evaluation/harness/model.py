"""Our models for EleutherAI's lm-evaluation-harness.

Texts are read after what their tokenizer puts before them, which is end-of-text in those of our own, and whole: what is
longer than one call is read in pieces with the state carried along, so nothing is cut and a long text costs no more
memory than a short one.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import lm_eval.models as models_of_the_harness
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model

from retentive.checkpoints import load_model
from retentive.checkpoints.devices import chosen_device
from retentive.checkpoints.transformers_files import (
    check_generation_settings,
    ends_of_generation,
    repetition_penalty_of_generation,
)
from retentive.evaluation.harness.prompts import Prompts
from retentive.evaluation.measures.mode import evaluating
from retentive.generation import Sampling, stream
from retentive.generation.prefixes import PrefixCache, PrefixReader
from retentive.generation.prompt import align
from retentive.models.calls import check_predicts_next
from retentive.models.protocol import LanguageModel
from retentive.ops.cross_entropy import IGNORED
from retentive.text.tokenizer import decode_batch, ids_without_text

DEFAULT_DEVICE = "cuda:0"
"""What the harness's command passes on where nobody names a device."""

assert (
    models_of_the_harness
)  # imported before our class: the harness registers its own models only while its table is empty

Encoded = tuple[tuple[str, str], list[int], list[int]]
"""A request as the harness encodes it: its texts, the context's ids, and those of the continuation."""


@dataclass(frozen=True, slots=True)
class Score:
    """The log-likelihood of a continuation in nats, and whether each of its tokens was the likeliest."""

    log_likelihood: float
    is_greedy: bool


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """The options with which the harness asks for a text."""

    until: tuple[str, ...]
    max_new_tokens: int
    sampling: Sampling

    @classmethod
    def read(cls, options: dict[str, Any], default_length: int) -> "GenerationOptions":
        """Read the ``generation_kwargs`` of a task.

        Raises:
            ValueError: If one of them is not supported.
        """
        options = dict(options)
        until = options.pop("until", ())
        lengths = [options.pop(name, None) for name in ("max_gen_toks", "max_new_tokens", "max_tokens")]
        temperature, sampled = options.pop("temperature", None), options.pop("do_sample", None)
        top_k, top_p = options.pop("top_k", None), options.pop("top_p", None)
        if options.pop("num_beams", 1) != 1 or options:
            raise ValueError(
                f"generation_kwargs must be among until, max_gen_toks, do_sample, temperature, top_k, top_p and "
                f"num_beams=1, but also have {', '.join(map(str, options)) or 'num_beams above 1'}."
            )
        sampling = Sampling()
        if sampled or (sampled is None and temperature):
            sampling = Sampling(temperature=1.0 if temperature is None else temperature, top_k=top_k, top_p=top_p)
        return cls(
            until=(until,) if isinstance(until, str) else tuple(until),
            max_new_tokens=next((_whole(length) for length in lengths if length is not None), default_length),
            sampling=sampling,
        )


def _whole(length: object) -> int:
    """Return a number of tokens, which may be written as text or as 32.0.

    Raises:
        ValueError: If it is no whole number.
    """
    try:
        number = float(str(length))
    except ValueError:
        number = float("nan")
    if not number.is_integer():
        raise ValueError(f"max_gen_toks must be a whole number of tokens, but is {length!r}.")
    return int(number)


@register_model("retentive")
class RetentiveLM(TemplateLM):
    """A saved model as the harness sees it: ``--model retentive --model_args pretrained=FOLDER``."""

    def __init__(
        self,
        pretrained: str | Path,
        device: str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        chunk_size: int = 1024,
        max_gen_toks: int = 256,
        prefix_cache_mb: int = 256,
    ) -> None:
        """Load a model and its tokenizer.

        Args:
            pretrained: Folder that `save_model` wrote, with its tokenizer; named as the harness names it.
            device: "cpu", "cuda", "cuda:1" or None for a GPU where there is one; so is "cuda:0", which the harness's
                command says where nobody does.
            batch_size: Texts side by side; None is 8. Changes speed, never results.
            max_batch_size: Ignored: batch sizes are not searched for.
            chunk_size: Tokens of each text read in one call. Changes speed and memory, never results.
            max_gen_toks: Tokens to write at most, where a task does not say.
            prefix_cache_mb: Megabytes for states of contexts, so that what many of them begin with, such as the
                examples of a task, is read once; 0 reads each whole. Changes speed, never results.

        Raises:
            ValueError: If a number is below 1, ``batch_size`` is none, there is no such device, or the model is an
                encoder.
        """
        super().__init__()
        del max_batch_size
        try:
            self.batch_size = int(batch_size or 8)
        except ValueError as error:
            raise ValueError(f"batch_size must be a number of texts, but is {batch_size!r}.") from error
        for name, number in (("batch_size", self.batch_size), ("chunk_size", int(chunk_size))):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, but is {number}.")
        self.chunk_size, self.max_gen_toks = int(chunk_size), int(max_gen_toks)
        self._device = _device_of(device)
        self.model: LanguageModel = load_model(pretrained, self._device)
        check_predicts_next(self.model)
        self._folder = Path(pretrained)
        self._prompts = Prompts(self._folder)
        self.tokenizer: Any = self._prompts.tokenizer
        vocab_size = self.model.config.decoder.embedding.vocab_size
        ends = (self.eot_token_id, *ends_of_generation(self._folder))
        self._ends = frozenset(end for end in ends if end < vocab_size)
        self._never = ids_without_text(self.tokenizer, vocab_size)
        # The harness's model of transformers writes by it too, greedily as well.
        self._repetition_penalty = repetition_penalty_of_generation(self._folder)
        self.prefix_cache = PrefixCache(int(prefix_cache_mb) << 20) if int(prefix_cache_mb) else None

    @property
    def eot_token_id(self) -> int:
        """The id that ends documents."""
        return self._prompts.tokenizer.end_of_text

    @property
    def prefix_token_id(self) -> int:
        """The id after which a text without context is read."""
        return self._prompts.begin

    @property
    def tokenizer_name(self) -> str:
        """The name by which the harness tells this tokenizer from others."""
        return f"retentive-{self._prompts.tokenizer.fingerprint()[:16]}"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids of a text, with what the tokenizer puts around it."""
        return self._prompts.encode(string, add_special_tokens)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Write a conversation by the chat template in the model's folder."""
        return self._prompts.chat(chat_history, add_generation_prompt=add_generation_prompt)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return the chat template in the model's folder, by its name if there are several; None if none is wanted."""
        if chat_template is False:
            return None
        found = self._prompts.chat_template()
        return found["default" if chat_template is True else chat_template] if isinstance(found, dict) else found

    def _loglikelihood_tokens(self, requests: Sequence[Encoded], **_: Any) -> list[tuple[float, bool]]:
        scores = self.score([(context, continuation) for _, context, continuation in requests])
        answers = [(score.log_likelihood, score.is_greedy) for score in scores]
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", request[0], answer)
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of whole texts, each read once from begin to end with its state carried along."""
        texts = [cast("tuple[str]", request.args) for request in requests]
        scores = self.score([([self._prompts.begin], self._prompts.whole(text)) for (text,) in texts])
        for arguments, score in zip(texts, scores, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", arguments, score.log_likelihood)
        return [score.log_likelihood for score in scores]

    def score(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[Score]:
        """The log-likelihood of continuations, each after its context of at least one token.

        Raises:
            ValueError: If a text is longer than a model with learned positions can read.
        """
        scores = [Score(0.0, True)] * len(pairs)
        order = [number for number, (_, continuation) in enumerate(pairs) if continuation]
        order.sort(key=lambda number: -sum(map(len, pairs[number])))
        for begin in range(0, len(order), self.batch_size):
            numbers = order[begin : begin + self.batch_size]
            for number, score in zip(numbers, self._score([pairs[number] for number in numbers]), strict=True):
                scores[number] = score
        return scores

    def _score(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[Score]:
        """Read rows whose ends are aligned, so that continuations stand in the last columns of all."""
        self._check_room(max(len(context) + len(continuation) - 1 for context, continuation in pairs))
        state = None
        if self.prefix_cache is not None:
            reader = PrefixReader(self.model, self.prefix_cache)
            state = reader.states_after([context[:-1] for context, _ in pairs])
            pairs = [(context[-1:], continuation) for context, continuation in pairs]
        read = [[*context, *continuation[:-1]] for context, continuation in pairs]
        batch = align([torch.tensor(row) for row in read], self._device)
        time = batch.longest
        labels = torch.full((len(pairs), time), IGNORED)
        for row, (_, continuation) in enumerate(pairs):
            labels[row, time - len(continuation) :] = torch.tensor(continuation)
        labels = labels.to(self._device)
        first = time - max(len(continuation) for _, continuation in pairs)
        total = torch.zeros(len(pairs), dtype=torch.float64, device=self._device)
        likeliest = torch.ones(len(pairs), dtype=torch.bool, device=self._device)
        for begin in range(0, time, self.chunk_size):
            columns = slice(begin, min(time, begin + self.chunk_size))
            wanted = columns.stop - min(max(begin, first), columns.stop)
            mask = None if batch.mask is None else batch.mask[:, columns]
            with evaluating(self.model):
                output = self.model(batch.tokens[:, columns], state, mask=mask, logits_to_keep=wanted)
                state = output.state
                if output.logits is not None:
                    logits, piece = output.logits.float(), labels[:, columns.stop - wanted : columns.stop]
                    counted = piece != IGNORED
                    chosen = logits.log_softmax(-1).gather(-1, piece.clamp_min(0)[..., None]).squeeze(-1)
                    total += chosen.double().where(counted, 0).sum(1)
                    likeliest &= ((logits.argmax(-1) == piece) | ~counted).all(1)
        return [Score(value, greedy) for value, greedy in zip(total.tolist(), likeliest.tolist(), strict=True)]

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Go on from contexts until one of some strings, the end of the document, or a number of tokens."""
        check_generation_settings(self._folder)
        asked = [cast("tuple[str, dict[str, Any]]", request.args) for request in requests]
        options = [GenerationOptions.read(wanted, self.max_gen_toks) for _, wanted in asked]
        answers = [""] * len(asked)
        for numbers in _alike(options, self.batch_size):
            texts = self._continue([asked[number][0] for number in numbers], options[numbers[0]])
            for number, text in zip(numbers, texts, strict=True):
                answers[number] = text
                self.cache_hook.add_partial("generate_until", asked[number], text)
        return answers

    def _continue(self, contexts: Sequence[str], options: GenerationOptions) -> list[str]:
        prompts = [self.tok_encode(context) or [self._prompts.begin] for context in contexts]
        steps = stream(
            self.model,
            prompts,
            max_new_tokens=options.max_new_tokens,
            sampling=replace(options.sampling, never=self._never, repetition_penalty=self._repetition_penalty),
            stop_tokens=self._ends,
            prefix_cache=self.prefix_cache,
        )
        going = set(range(len(contexts)))
        written: list[list[int]] = [[] for _ in contexts]
        for step in steps:
            for row in sorted(going):
                token = step[row]
                if token is None or token in self._ends:
                    going.discard(row)
                    continue
                written[row].append(token)
                text = self.tokenizer.decode(written[row])
                if any(end in text for end in options.until):
                    going.discard(row)
            if not going:
                break
        return [_cut(text, options.until) for text in decode_batch(self.tokenizer, written)]

    def _check_room(self, tokens: int) -> None:
        longest = self.model.longest_text
        if longest is not None and tokens > longest:
            raise ValueError(
                f"every text must fit into the model's max_positions = {longest} tokens, but one has {tokens}: a model "
                "with learned positions cannot read on. Choose another task or a family without them."
            )


def _device_of(name: str | None) -> torch.device:
    """The device that the harness names, or the one that is there."""
    if name == DEFAULT_DEVICE and not torch.cuda.is_available():
        logging.getLogger(__name__).warning("torch finds no GPU: %s, the harness's default, becomes the CPU", name)
        name = "cpu"
    kind, _, number = ("auto" if name is None else name).partition(":")
    if kind not in ("auto", "cpu", "cuda") or (number and not number.isdecimal()):
        raise ValueError(
            f"device must be 'cpu', 'cuda' or 'cuda:' and a number, but is {name!r}; leave it out to choose."
        )
    device = chosen_device(kind)
    return torch.device(device.type, int(number)) if number else device


def _alike(options: Iterable[GenerationOptions], size: int) -> Iterator[list[int]]:
    """Batches of requests with equal options, as their numbers."""
    groups: dict[GenerationOptions, list[int]] = {}
    for number, wanted in enumerate(options):
        groups.setdefault(wanted, []).append(number)
    for numbers in groups.values():
        yield from (numbers[begin : begin + size] for begin in range(0, len(numbers), size))


def _cut(text: str, until: Iterable[str]) -> str:
    """The text before the first of some strings."""
    for end in until:
        text = text.split(end, 1)[0] if end else text
    return text
