"""Settings of other people's checkpoints: what is said, what their package takes otherwise, and what is refused."""

from collections.abc import Mapping
from typing import Any

from retentive.errors import MismatchError


class Settings:
    """Settings by their package's names.

    Attributes:
        assumed: What was not said, with the value that the package takes then.
        left_behind: What has no place here and shows in further training alone, by its name there.
    """

    def __init__(self, values: Mapping[str, Any], source: str) -> None:
        """Read from what the settings file says; ``source`` names it in messages."""
        self._values = values
        self._source = source
        self.assumed: dict[str, Any] = {}
        self.left_behind: dict[str, Any] = {}

    def __contains__(self, name: str) -> bool:
        """Whether it is said."""
        return name in self._values

    def get(self, name: str, default: Any) -> Any:
        """A setting, or the package's own default, which is noted."""
        if name in self._values:
            return self._values[name]
        self.assumed[name] = default
        return default

    def leave_behind(self, name: str, default: Any, covered: Any) -> None:
        """Note a setting of training that has no place here, unless what is carried over covers its value."""
        value = self._values.get(name, default)
        if value != covered:
            self.left_behind[name] = value

    def number(self, name: str, measured: int, tensor: str) -> int:
        """A size that a tensor tells as well.

        Raises:
            MismatchError: If the two differ; the message names both.
        """
        said = self._values.get(name, measured)
        if said != measured:
            raise MismatchError(
                f"{self._source} says {name}={said}, but its tensors are of {measured}, by {tensor}; correct it."
            )
        return measured

    def only(self, name: str, allowed: Any, why: str) -> None:
        """Refuse a setting whose other values mean a model that cannot be made here.

        Raises:
            MismatchError: If it is said and is not what is allowed.
        """
        said = self._values.get(name, allowed)
        if said != allowed:
            raise MismatchError(f"{name} must be {allowed!r} in what is converted, but is {said!r}: {why}.")

    def one_of(self, name: str, meanings: Mapping[str, str], default: str) -> str:
        """A setting with a word of ours for each of its values.

        Raises:
            MismatchError: If it has another value.
        """
        said = self.get(name, default)
        if said not in meanings:
            raise MismatchError(
                f"{name} must be one of {', '.join(meanings)} in what is converted, but is {said!r}, which is not here."
            )
        return meanings[said]
