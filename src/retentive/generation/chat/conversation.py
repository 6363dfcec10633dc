"""A conversation with a model. Its state is a value, so that every turn reads its own tokens alone."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from retentive.checkpoints import GenerationState
from retentive.config_types import check_count
from retentive.generation.generator import TokenStream, stream
from retentive.generation.neighbours.retrieval import Retrieval, Retriever
from retentive.generation.sampling import Sampling
from retentive.generation.text_stream import TextStream
from retentive.models.protocol import LanguageModel
from retentive.state import ModelState
from retentive.text.chat_template import ChatTemplate
from retentive.text.tokenizer import Tokenizer, ids_without_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """What was said, and where the model stands after it. To fork a conversation, go on from it twice.

    Attributes:
        messages: From the first on; a system message may begin them.
        state: What the model carries; None before the first answer.
        ended: Whether the newest answer ended by itself, and was not cut off.
        tokens_read: Tokens that the model has read or written in all turns.
    """

    messages: tuple[Mapping[str, Any], ...] = ()
    state: GenerationState | None = None
    ended: bool = True
    tokens_read: int = 0

    @property
    def turns(self) -> int:
        """Number of answers."""
        return sum(message["role"] == "assistant" for message in self.messages)


class Answer(Iterator[str]):
    """An answer as it is written: each step gives the characters that are whole now; leave it at any of them.

    Attributes:
        tokens: The tokens of the answer, as `stream` gives them.
        num_read: Tokens that the model read before the answer: the turn's own, whatever was said before.
        num_written: Tokens of the answer so far.
    """

    def __init__(
        self,
        before: Conversation,
        new: Sequence[Mapping[str, Any]],
        tokens: TokenStream,
        text: TextStream,
        num_read: int,
        ends: Collection[int],
    ) -> None:
        """Begin an answer; `Chat.answer` makes one."""
        self.tokens, self.num_read, self.num_written = tokens, num_read, 0
        self._before, self._new, self._text, self._ends = before, new, text, ends
        self._said: list[str] = []

    def __iter__(self) -> "Answer":
        """The answer itself."""
        return self

    def __next__(self) -> str:
        """The next characters; may be empty."""
        (token,) = next(self.tokens)
        if token is None:
            raise StopIteration
        self.num_written += 1
        if token in self._ends:
            return ""
        self._said.append(self._text.push(token))
        return self._said[-1]

    @property
    def ended(self) -> bool:
        """Whether the answer has ended by itself."""
        return self.tokens.stopped[0]

    @property
    def conversation(self) -> Conversation:
        """The conversation with the answer as far as it was written; without the whole turn before the first token."""
        if not self.num_written:
            return self._before
        said = {"role": "assistant", "content": "".join(self._said)}
        return Conversation(
            messages=(*self._before.messages, *self._new, said),
            state=self.tokens.state,
            ended=self.ended,
            tokens_read=self._before.tokens_read + self.num_read + self.num_written,
        )


class Chat:
    """Answers in conversations.

    Args:
        model: Of any family that writes.
        tokenizer: The model's own.
        template: Writes messages as the model was taught to read them.
        sampling: How tokens are drawn; greedy if left out.
        max_new_tokens: Tokens of an answer at most.
        ends: Ids that end an answer besides those of the template, such as those of a ``generation_config.json``.

    Raises:
        ValueError: If ``max_new_tokens`` is below 1.
    """

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        *,
        sampling: Sampling | None = None,
        max_new_tokens: int = 512,
        ends: Collection[int] = (),
    ) -> None:
        check_count("max_new_tokens", max_new_tokens)
        self._model, self._tokenizer, self._template = model, tokenizer, template
        never = ids_without_text(tokenizer, model.vocab_size)
        self._sampling = replace(Sampling() if sampling is None else sampling, never=never)
        self._max_new_tokens = max_new_tokens
        self._ends = frozenset((*template.ends, *(end for end in ends if end < model.vocab_size)))

    def answer(
        self, conversation: Conversation, said: str, *, retriever: Retriever | Retrieval | None = None
    ) -> Answer:
        """Say something; the model reads it when the answer's first characters are asked for.

        Args:
            conversation: What was said before.
            said: The user's next message.
            retriever: As in `generate`.

        Raises:
            ValueError: If the template refuses the messages, or the text would outgrow the model.
            MismatchError: If the template leaves out earlier answers.
        """
        new = [{"role": "user", "content": said}]
        ids, state = next_turn(self._template, conversation, new)
        tokens = stream(
            self._model,
            ids,
            max_new_tokens=self._max_new_tokens,
            sampling=self._sampling,
            stop_tokens=self._ends,
            state=state,
            retriever=retriever,
        )
        num_read = len(ids) + isinstance(state, GenerationState)
        return Answer(conversation, new, tokens, TextStream(self._tokenizer), num_read, self._ends)


def next_turn(
    template: ChatTemplate, conversation: Conversation, new: Sequence[Mapping[str, Any]]
) -> tuple[list[int], ModelState | GenerationState | None]:
    """Return the tokens that are read next, the beginning of the answer included, and the state they are read after.

    The template writes the end of an answer again, so a token that ended one is left unread; the newest token of an
    answer that was cut off is read first.
    """
    if conversation.state is None:
        return template.encode([*conversation.messages, *new]), None
    ids = template.encode_after_answer(conversation.messages, new)
    return ids, conversation.state.model if conversation.ended else conversation.state
