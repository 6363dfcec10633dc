"""A task's texts as token ids: what lm-evaluation-harness's own ``hf`` model makes of them with the same folder."""

from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from retentive.checkpoints.weights import load_own_tokenizer
from retentive.text.tokenizer import Tokenizer, begin_of, encode_prompt


class Prompts:
    """The tokenizer of a model's folder, and its chat template.

    A prompt is a text that a template wrote, that of a task or of a chat. So where transformers reads the strings of
    special tokens as these tokens, they are read so here; tokenizers of our own leave them text.

    Attributes:
        tokenizer: Of the folder.
        begin: The id that an empty context becomes.
        is_foreign: Whether the tokenizer is from elsewhere. Whole texts are then scored with the tokens that it puts
            before them, as ``hf`` does. Tokenizers of our own put the end of a document there, which no model has
            learned to predict at the begin of another.
    """

    def __init__(self, folder: Path) -> None:
        """Read the tokenizer of a folder."""
        self._folder = folder
        self.tokenizer: Tokenizer = load_own_tokenizer(folder)
        self.begin = begin_of(self.tokenizer)
        self.is_foreign = self.tokenizer.name == "file"

    def encode(self, text: str, add_special_tokens: bool | None = None) -> list[int]:
        """Token ids of a text, with what the tokenizer puts around it, unless that is not wanted or there already."""
        if add_special_tokens is None:
            begin: str | None = getattr(self.tokenizer, "begin_string", None)
            add_special_tokens = not (self.is_foreign and begin and text.startswith(begin))
        return encode_prompt(self.tokenizer, text, tags=True, around=add_special_tokens)

    def whole(self, text: str) -> list[int]:
        """Token ids of a text of which each is scored, the first after `begin`."""
        return self.encode(text) if self.is_foreign else self.encode(text, add_special_tokens=False)

    def chat(self, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
        """Write a conversation by the folder's chat template.

        Raises:
            ImportError: If transformers, which runs the template, is not installed.
            ValueError: If the folder has no chat template.
        """
        self.chat_template()
        options = {"add_generation_prompt": add_generation_prompt, "continue_final_message": not add_generation_prompt}
        return self._of_transformers.apply_chat_template(messages, tokenize=False, **options)

    def chat_template(self) -> Any:
        """Return the folder's chat template, or a dictionary of several; see `chat`."""
        found: Any = self._of_transformers.chat_template
        if not found:
            raise ValueError(
                f"a chat template must be beside the tokenizer for --apply_chat_template, but {self._folder} has none."
            )
        return found

    @cached_property
    def _of_transformers(self) -> Any:
        if find_spec("transformers") is None:
            raise ImportError(
                "a chat template needs transformers, which is not installed: pip install 'retentive[hf]'."
            )
        from transformers import PreTrainedTokenizerFast

        load: Any = PreTrainedTokenizerFast.from_pretrained
        return load(self._folder)
