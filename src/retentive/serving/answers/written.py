"""What a row has written: its text, log-probabilities, and the passages that it read."""

from dataclasses import dataclass, field

from retentive.generation import RequestStep
from retentive.serving.answers import logprobs
from retentive.serving.answers.passages import Reading, read_passages
from retentive.serving.wire.chat import TokenLogprob
from retentive.serving.wire.common import ReadPassages
from retentive.text.tokenizer import Tokenizer


@dataclass(slots=True)
class Written:
    """What was written: by one step, or so far."""

    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list[TokenLogprob])
    neighbours: list[ReadPassages] = field(default_factory=list[ReadPassages])

    async def add(self, step: RequestStep, reading: Reading | None, tokenizer: Tokenizer) -> "Written":
        """Take a step; return what it added."""
        one = logprobs.of_token(step, tokenizer)
        added = Written(step.text, [] if one is None else [one], await read_passages(reading, step))
        self.text += added.text
        self.logprobs += added.logprobs
        self.neighbours += added.neighbours
        return added
