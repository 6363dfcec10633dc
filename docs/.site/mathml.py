"""Equations become MathML while the site is built, so that pages show them without scripts."""

import html
import re

from latex2mathml.converter import convert

EQUATION = re.compile(r'<(span|div) class="arithmatex">(?:\\\((.*?)\\\)|\\\[(.*?)\\\])</\1>', flags=re.DOTALL)


def on_page_content(content: str, **_: object) -> str:
    """Replace what `pymdownx.arithmatex` marked; called by MkDocs with the HTML of each page."""
    return EQUATION.sub(_mathml, content)


def _mathml(found: re.Match[str]) -> str:
    tag, inline, block = found.groups()
    written = html.unescape(inline if tag == "span" else block).strip()
    mathml = convert(written, display="inline" if tag == "span" else "block")
    if "\\" in mathml:
        raise ValueError(f"an equation must be of commands that latex2mathml knows, but is {written!r}.")
    return mathml
