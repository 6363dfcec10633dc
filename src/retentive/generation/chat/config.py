"""What ``retentive chat`` is told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from retentive.checkpoints import load_model
from retentive.checkpoints.devices import chosen_device
from retentive.checkpoints.transformers_files import ends_of_generation
from retentive.checkpoints.weights import load_own_tokenizer
from retentive.config_types import check_counts, check_types
from retentive.generation.chat.conversation import Chat, Conversation
from retentive.generation.neighbours.display import NeighbourDisplay
from retentive.generation.neighbours.retrieval import StoreRetriever
from retentive.generation.sampling import Sampling
from retentive.generation.session import open_store
from retentive.models.base import DecoderModel
from retentive.text.chat_template import load_chat_template


@dataclass(frozen=True, kw_only=True)
class ChatConfig:
    """Talk with a model in the terminal; every conversation is kept, and goes on where it stopped.

    Args:
        checkpoint: Folder of a model with a chat template, as "retentive convert" writes it of an instruct model.
        session: Name of the conversation: it goes on, or begins where there is none of this name. Without it, a new one
            is named by the time.
        folder: Where conversations are kept, one file each.
        list: List the conversations and end.
        system: What stands before the first message, and says how to answer.
        max_new_tokens: Tokens of an answer at most.
        temperature: Divides the logits: below 1, likely tokens become likelier; 0 always takes the likeliest.
        top_k: Draw among this many of the likeliest tokens.
        top_p: Draw among the fewest tokens whose probabilities add up to this.
        seed: The same seed gives the same answers; without it, others each time.
        device: "cpu", "cuda", or "auto": a GPU where there is one.
        store: For a RETRO: folder of the datastore to find neighbours in.
        k: Neighbours of each chunk in the store.
        show_tokens: Say after each answer how many tokens were read and written, and how fast.
    """

    checkpoint: Path
    session: str | None = None
    folder: Path = Path("chats")
    list: bool = False
    system: str | None = None
    max_new_tokens: int = 512
    temperature: float = 0.7
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    store: Path | None = None
    k: int = 2
    show_tokens: bool = False

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        check_counts(self, "max_new_tokens", "k")
        if self.store is None and self.k != ChatConfig.k:
            raise ValueError("store must be given for k, but is not: so many neighbours are found in it.")

    @property
    def sampling(self) -> Sampling:
        """How tokens are drawn; temperature 0 always takes the likeliest."""
        return Sampling(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, seed=self.seed)


@dataclass(frozen=True, slots=True)
class OpenChat:
    """A model that is ready to talk.

    Attributes:
        model: The model.
        chat: Answers.
        begin: A conversation in which nothing was said.
        retriever: What finds neighbours; None without a store.
        sources: What shows them.
    """

    model: DecoderModel
    chat: Chat
    begin: Conversation
    retriever: StoreRetriever | None = None
    sources: NeighbourDisplay | None = None


def open_chat(config: ChatConfig) -> OpenChat:
    """Load what a chat needs.

    Raises:
        FileNotFoundError: If the folder holds no model.
        MismatchError: If there is no chat template, or the store is not one for the model.
    """
    tokenizer = load_own_tokenizer(config.checkpoint)
    template = load_chat_template(config.checkpoint, tokenizer=tokenizer)  # first, for it fails fast
    model = load_model(config.checkpoint, chosen_device(config.device))
    chat = Chat(
        model,
        tokenizer,
        template,
        sampling=config.sampling,
        max_new_tokens=config.max_new_tokens,
        ends=ends_of_generation(config.checkpoint),
    )
    begin = Conversation(messages=() if config.system is None else ({"role": "system", "content": config.system},))
    if config.store is None:
        return OpenChat(model, chat, begin)
    return OpenChat(model, chat, begin, *open_store(config.store, config.k, model.chunked_reading, tokenizer))
