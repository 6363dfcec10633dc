"""Which memory a config describes, tokens or associations, and that its options mean something to it."""

from dataclasses import fields
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class MemoryKind(Protocol):
    """The fields of a config that say which memory it is, beside options of one kind alone."""

    @property
    def memory(self) -> str:
        """The kind."""
        ...

    @property
    def num_memory_tokens(self) -> int:
        """Memory tokens."""
        ...

    @property
    def associative_dim(self) -> int | None:
        """Channels of an associative key."""
        ...


def check_memory_kind(config: MemoryKind, tokens_only: tuple[str, ...]) -> None:
    """Validate the kind of a memory, and that options of the other one are left out.

    Args:
        config: A frozen dataclass.
        tokens_only: Its options of a memory of tokens.

    Raises:
        ValueError: If an option is missing or means nothing.
    """
    if config.memory not in ("tokens", "associative"):
        raise ValueError(f"memory must be 'tokens' or 'associative', but is {config.memory!r}.")
    if config.memory == "associative" and not config.num_memory_tokens:
        raise ValueError("num_memory_tokens must be at least 1 with memory='associative', which stores them.")
    if (config.memory == "associative") != (config.associative_dim is not None):
        raise ValueError(
            f"associative_dim goes with memory='associative' and with nothing else, but memory is {config.memory!r} "
            f"and associative_dim is {config.associative_dim}."
        )
    if config.memory == "associative":
        refuse_unused(config, tokens_only, "memory='associative'")
        return
    refuse_unused(config, ("associative_features", "associative_normaliser"), "memory='tokens'")
    if not config.num_memory_tokens:
        refuse_unused(config, tokens_only, "num_memory_tokens=0")


def refuse_unused(config: Any, names: tuple[str, ...], where: str) -> None:
    """Validate that options without a meaning here are at their defaults."""
    defaults = {field.name: field.default for field in fields(config)}
    for name in names:
        given, default = getattr(config, name), defaults[name]
        if given != default:
            raise ValueError(f"{name} means nothing with {where}, but is {given!r}; leave it at {default!r}.")
