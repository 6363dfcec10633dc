"""Conditions on the columns of documents: which of them may be answers."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time
from fnmatch import fnmatchcase
from operator import eq, ge, gt, le, lt, ne
from typing import Any

import numpy as np
from jaxtyping import Bool

from retentive.retrieval.blocks.corpus import Corpus

PATH = "path"
"""The column that every document has: its name."""

Where = str | Mapping[str, Any]
"""Conditions that must all hold: ``"year>=1999 path=docs/*"``, or a dictionary of columns.

In a dictionary a value means equal, a list any of its values, and a dictionary compares: ``{"year": {">=": 1999}}``.
Dates and times are compared as the text that readers make of them, ``2020-01-31T12:00:00``.
"""

_COMPARE = {"=": eq, "!=": ne, "<": lt, "<=": le, ">": gt, ">=": ge}
OPERATORS = ("=", "!=", "<", "<=", ">", ">=", "~")
"""Comparisons; ``~`` is for patterns such as ``docs/*.md``."""

CONDITION = re.compile(r'(?P<column>[^\W\d][\w.-]*)(?P<operator>>=|<=|!=|=|>|<|~|:)(?P<value>"[^"]*"|[^\s"]+)')


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison of a column; documents without the column do not fulfil it.

    Attributes:
        column: Name of the column; `PATH` is the document's name.
        operator: One of `OPERATORS`.
        values: What is compared with; any of them may fulfil it.
        written: Whether the values are words of a text, which may mean numbers or truth values.
    """

    column: str
    operator: str
    values: tuple[Any, ...]
    written: bool = False

    def holds(self, value: Any) -> bool:
        """Whether a document's value fulfils it."""
        return value is not None and any(self._compare(value, other) for other in self.values)

    def _compare(self, value: Any, other: Any) -> bool:
        if self.operator == "~" or (
            self.written and self.operator == "=" and isinstance(value, str) and set("*?") & set(other)
        ):
            return isinstance(value, str) and fnmatchcase(value, str(other))
        if self.written and not isinstance(value, str):
            other = _number(other)
        numbers = isinstance(value, int | float) and isinstance(other, int | float)
        if not numbers and type(value) is not type(other):
            return self.operator == "!="
        return bool(_COMPARE[self.operator](value, other))


def _number(written: str) -> Any:
    if written.lower() in ("true", "false"):
        return written.lower() == "true"
    for kind in (int, float):  # of whole numbers a float has not all digits
        try:
            return kind(written)
        except ValueError:
            continue
    return written


def conditions_of(where: Where) -> tuple[Condition, ...]:
    """Read conditions.

    Raises:
        ValueError: If they are no conditions; the message says what they look like.
        ValueError: If a value is none that a column can have, as ``None``.
    """
    if isinstance(where, str):
        found: list[Condition] = []
        place = 0
        for match in CONDITION.finditer(where):
            _check_between(where, where[place : match.start()])
            found.append(written_condition(match))
            place = match.end()
        _check_between(where, where[place:])
        return tuple(found)
    made: list[Condition] = []
    for column, value in where.items():
        if isinstance(value, Mapping):
            for operator, other in value.items():
                if operator not in OPERATORS:
                    raise ValueError(f"where compares by {' '.join(OPERATORS)}, but has {operator!r} for {column!r}.")
                made.append(Condition(column, operator, (_comparable(column, other),)))
        elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
            made.append(Condition(column, "=", tuple(_comparable(column, one) for one in value)))
        else:
            made.append(Condition(column, "=", (_comparable(column, value),)))
    return tuple(made)


def _comparable(column: str, value: Any) -> str | int | float:
    """A value as columns have it."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, date | time):
        return value.isoformat()
    if not isinstance(value, str | int | float):
        message = f"where compares with text, numbers, truth values and dates, but has {value!r} for {column!r}"
        raise ValueError(f"{message}.")
    return value


def written_condition(match: re.Match[str]) -> Condition:
    """The condition that a match of `CONDITION` writes; a colon means equal."""
    operator = "=" if match["operator"] == ":" else match["operator"]
    return Condition(match["column"], operator, (match["value"].strip('"'),), written=True)


def _check_between(where: str, between: str) -> None:
    if between.strip(" ,\t\n"):
        message = f"where must be conditions such as year>=1999 or path=docs/*, but {between.strip()!r} is none"
        raise ValueError(f"{message} (in {where!r}).")


def allowed_documents(corpus: Corpus, where: Sequence[Condition]) -> Bool[np.ndarray, "documents"]:
    """Whether each document fulfils all conditions.

    Raises:
        ValueError: If no document has a column of them; the columns that there are are named.
    """
    allowed = np.ones(corpus.num_documents, dtype=np.bool_)
    if not where:
        return allowed
    if unknown := {condition.column for condition in where} - columns(corpus):
        message = (
            f"no document has the column {sorted(unknown)[0]!r}; the columns are {', '.join(sorted(columns(corpus)))}"
        )
        raise ValueError(f"{message}.")
    for block in range(len(corpus.blocks)):
        first = int(corpus.first_documents[block])
        known = zip(corpus.block_names(block), corpus.block_metadata(block), strict=True)
        for number, (name, metadata) in enumerate(known, start=first):
            row = {PATH: name} | metadata
            allowed[number] = all(condition.holds(row.get(condition.column)) for condition in where)
    return allowed


def columns(corpus: Corpus) -> set[str]:
    """Names of all columns."""
    found = {PATH}
    for block in range(len(corpus.blocks)):
        for metadata in corpus.block_metadata(block):
            found |= metadata.keys()
    return found
