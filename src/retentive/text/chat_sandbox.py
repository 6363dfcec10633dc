"""Where chat templates run: Jinja's sandbox with what transformers gives a template, and nothing more.

Templates come with weights from elsewhere. This file needs jinja2.
"""

import json
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from retentive.errors import DamagedFileError


class _Generation(Extension):
    """``{% generation %}``, by which templates mark what an assistant said; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        """Read the block as if the marks were not there."""
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


class _PlainNamespace(Namespace):
    """``namespace()`` without names that begin with an underscore, which lead into Python."""

    def __init__(*args: Any, **attributes: Any) -> None:  # pyright: ignore[reportSelfClsParameterName]
        self, *values = args
        for name in dict(*values, **attributes):
            _check_name(name)
        Namespace.__init__(self, *values, **attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace must not hold {name!r}: names begin with a letter.")


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    # Jinja's own escapes what HTML reads.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


class Sandbox:
    """A template, compiled.

    Args:
        source: The template.
        name: Where it was found, for messages.

    Raises:
        DamagedFileError: If it is no Jinja template.
    """

    def __init__(self, source: str, name: str) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        ours: dict[str, Any] = {"raise_exception": _raise, "strftime_now": _now, "namespace": _PlainNamespace}
        environment.globals.update(ours)
        self._name = name
        try:
            self._template = environment.from_string(source)
        except TemplateSyntaxError as error:
            raise DamagedFileError(
                f"the chat template of {name} must be a Jinja template, but line {error.lineno}: {error.message}; copy "
                "it again, or write another into chat_template.jinja."
            ) from error

    def render(self, variables: dict[str, Any]) -> str:
        """Return what the template writes.

        Raises:
            ValueError: If the template refuses the variables, or reads what is not there.
        """
        try:
            return self._template.render(variables)
        except TemplateError as error:
            raise ValueError(f"messages must suit the chat template of {self._name}, which says: {error}") from error
        except Exception as error:  # a template of others fails in any way, by memory and recursion too
            said = str(error) or type(error).__name__
            raise ValueError(f"messages must suit the chat template of {self._name}, which fails: {said}") from error
