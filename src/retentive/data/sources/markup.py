"""The text of HTML pages and of PDFs, by libraries for them."""

from importlib import import_module
from typing import Any

from retentive.data.sources.documents import Problem, too_large
from retentive.extras import EXTRA_OF


def html_text(content: bytes, name: str, *, limit: int) -> tuple[str, dict[str, str]] | Problem:
    """The main text of a page, without menus and footers, and its title and date where it has them.

    Args:
        content: The file.
        name: Name of the document.
        limit: Bytes of text, at most; the file has no more, so its text has not.

    Raises:
        ImportError: If trafilatura is not installed.
    """
    trafilatura = _reader("trafilatura", name)
    found: Any = trafilatura.bare_extraction(content, with_metadata=True, include_comments=False)
    # Pages that are nothing but a few words have no main text for it: then all text that is shown.
    text = (found.text if found is not None else None) or trafilatura.html2txt(content)
    if not text or not text.strip():
        return Problem(name=name, kind="empty", message="is a page without text")
    known = {} if found is None else {"title": found.title, "date": found.date}
    return text, {column: str(value) for column, value in known.items() if value}


def pdf_text(content: bytes, name: str, *, limit: int) -> tuple[str, dict[str, str]] | Problem:
    """The text of a PDF, pages parted by an empty line, and its title where it has one.

    Args:
        content: The file.
        name: Name of the document.
        limit: Bytes of text, at most; the pages after it are not read.

    Raises:
        ImportError: If pypdfium2 is not installed.
    """
    pypdfium2 = _reader("pypdfium2", name)
    try:
        document: Any = pypdfium2.PdfDocument(content)
    except pypdfium2.PdfiumError as error:
        return Problem(name=name, kind="unreadable", message=_why_unread(content, str(error)))
    pages: list[str] = []
    try:
        held = 0
        for number in range(len(document)):
            page = document[number]
            shown = page.get_textpage()
            pages.append(shown.get_text_range().replace("\r\n", "\n").replace("\ufffe", ""))
            shown.close()
            page.close()
            held += len(pages[-1])
            if held > limit:
                return too_large(name, f"over {held:,} characters of text", limit)
        title = str(document.get_metadata_dict().get("Title", "")).strip()
    except pypdfium2.PdfiumError as error:
        message = f"is a PDF whose page {len(pages) + 1:,} cannot be read ({error}): is it damaged?"
        return Problem(name=name, kind="unreadable", message=message)
    finally:
        document.close()
    text = "\n\n".join(page.strip("\n") for page in pages if page.strip())
    if not text:
        return Problem(name=name, kind="empty", message="is a PDF without text: are its pages images?")
    return text.replace("\x00", ""), {"title": title} if title else {}


def _why_unread(content: bytes, said: str) -> str:
    if b"%PDF-" not in content[:1024]:  # where readers look for it
        return "is no PDF, whatever its name says: name it for what it is, or exclude it"
    if "password" in said:
        return "is a PDF that needs a password: take it off, or exclude it"
    return f"is a PDF that cannot be read ({said}): is it damaged?"


def _reader(package: str, name: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        lacking = error.name if error.name in EXTRA_OF else package  # it, or what it needs itself
        raise ImportError(f"reading {name} needs the package {lacking}: pip install 'retentive[readers]'") from error
