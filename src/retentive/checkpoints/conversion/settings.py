"""Settings of other packages' checkpoints: given, defaulted, or refused."""

from collections.abc import Mapping
from typing import Any

from retentive.errors import MismatchError


class Settings:
    """Settings by their package's names.

    Attributes:
        assumed: Settings that are not given, with the package's defaults.
        left_behind: Settings that this library lacks and that matter only in further training, by the package's names.
    """

    def __init__(self, values: Mapping[str, Any], source: str) -> None:
        """Wrap the content of a settings file; ``source`` names it in messages."""
        self._values = values
        self._source = source
        self.assumed: dict[str, Any] = {}
        self.left_behind: dict[str, Any] = {}

    def __contains__(self, name: str) -> bool:
        """Whether a setting is given."""
        return name in self._values

    def get(self, name: str, default: Any) -> Any:
        """A setting, or the package's default, which is noted in ``assumed``."""
        if name in self._values:
            return self._values[name]
        self.assumed[name] = default
        return default

    def either(self, name: str, other: str, default: Any) -> Any:
        """A setting that has two names, or the package's default.

        Raises:
            MismatchError: If it is given by both, with different values.
        """
        if other in self._values and self._values.get(name, self._values[other]) != self._values[other]:
            raise MismatchError(
                f"{self._source} says {name}={self._values[name]!r} and {other}={self._values[other]!r}, two names of "
                "one setting; leave one of them out."
            )
        return self._values[other] if other in self._values else self.get(name, default)

    def leave_behind(self, name: str, default: Any, covered: Any) -> None:
        """Note a setting of training that this library lacks, unless its value makes no difference."""
        value = self._values.get(name, default)
        if value != covered:
            self.left_behind[name] = value

    def number(self, name: str, measured: int, tensor: str) -> int:
        """A size that a tensor's shape gives too.

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
        """Check a setting of which this library supports only one value.

        Raises:
            MismatchError: If it is given and has another value.
        """
        said = self._values.get(name, allowed)
        if said != allowed:
            raise MismatchError(f"{name} must be {allowed!r} in what is converted, but is {said!r}: {why}.")

    def one_of(self, name: str, meanings: Mapping[str, str], default: str) -> str:
        """Translate a setting whose values have other names here.

        Raises:
            MismatchError: If it has another value.
        """
        said = self.get(name, default)
        if said not in meanings:
            raise MismatchError(
                f"{name} must be one of {', '.join(meanings)} in what is converted, but is {said!r}, which is not here."
            )
        return meanings[said]
