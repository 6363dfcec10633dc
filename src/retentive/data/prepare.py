"""``retentive prepare``: tokenize a folder of text into a token store."""

import hashlib
import sysconfig
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from retentive.config_types import check_counts, check_kind, check_types
from retentive.data.manifest import MANIFEST_FILE, Split, SplitRecord
from retentive.data.sources.documents import Document, Problem
from retentive.data.sources.folders import EVERY_FILE, SourceFile, list_files, name_matcher
from retentive.data.sources.reading import MAX_DOCUMENT_BYTES, read_documents
from retentive.data.splitting import HeldOutByName, draw, heldout_purpose, split_of
from retentive.data.token_store import TokenStore
from retentive.data.token_store_writer import TokenStoreWriter, check_output
from retentive.data.tokenizing import encode_documents, known_byte_lengths, spells
from retentive.errors import RetentiveError
from retentive.files.paths import real_path
from retentive.files.progress import ProgressBar
from retentive.files.targets import check_folder_target
from retentive.text.byte_tokenizer import ByteTokenizer, utf8
from retentive.text.loading import load_tokenizer
from retentive.text.subword_tokenizer import train_bpe
from retentive.text.tokenizer import Tokenizer

_BATCH_BYTES = 4 << 20
_PROBLEMS_SHOWN = 10
_GAPS = ("\n\n\n", "\n\n", "\n")
"""Separators to try, widest first: two empty lines, one empty line, a line end."""

Splitter = Callable[[str, bytes], Split | None]
"""The split of a document by its name and content; None for one that is in neither."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareConfig:
    """Options of `prepare`.

    Args:
        source: A folder of text, or one file. Files named .jsonl or .ndjson hold a JSON object a line, those named
            .parquet, .csv or .tsv a table, .html and .pdf pages whose text is taken; all others are UTF-8 text, one
            document each. Compressed files (.gz .bz2 .xz .zst) and members of .tar and .zip are read like any other.
        output: Folder of the token store to make.
        pattern: Which files of a folder: globs relative to it, separated by commas; ** is any number of folders.
            Hidden files are left out unless a glob names the dot.
        exclude: Which files and whole folders to leave out, as in "**/site-packages,**/test".
        field: Field of JSON objects, or column of tables, that holds the text.
        separator: String between the documents of one text file. Without it each file is one document.
        tokenizer: "bytes" (256 bytes and end-of-text), "bpe" (learned from the training split of this text), or the
            path of a tokenizer.json or of a folder with one.
        vocab_size: Number of token ids for "bpe", at least 257; must be left out for others.
        end_of_text: For a tokenizer.json, the token that ends a document, if the file does not name it.
        tokenizer_training_bytes: Bytes of text that "bpe" learns from at most; above that, a sample of documents.
        heldout_fraction: Share of documents held out from training, 0 to below 1. The hash of a document's content
            decides, so the split does not depend on names or on the order of files.
        held_out: Which documents are held out, in place of a share: globs over their names as in "pattern", such as
            "2.1.0/**" for a release or a folder. One that is a copy of a document of training is reported and left out.
        split_seed: Another number draws another split.
        max_document_bytes: Documents and lines of JSON above this size in bytes are reported and left out.
        overwrite: Replace a store that is in the output folder already.
    """

    source: Path
    output: Path
    pattern: str = EVERY_FILE
    exclude: str = ""
    field: str = "text"
    separator: str | None = None
    tokenizer: str = "bytes"
    vocab_size: int | None = None
    end_of_text: str | None = None
    tokenizer_training_bytes: int = 256 << 20
    heldout_fraction: float = 0.05
    held_out: str | None = None
    split_seed: int = 0
    max_document_bytes: int = MAX_DOCUMENT_BYTES
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        if not 0 <= self.heldout_fraction < 1:
            raise ValueError(f"heldout_fraction must be from 0 to below 1, but is {self.heldout_fraction}.")
        if self.tokenizer == "bpe" and self.vocab_size is None:
            raise ValueError("vocab_size must be given with tokenizer='bpe', for example 8192.")
        if self.tokenizer != "bpe" and self.vocab_size is not None:
            message = f"vocab_size is for tokenizer='bpe', but the tokenizer is {self.tokenizer!r}: leave it out."
            raise ValueError(message)
        if self.tokenizer in ("bytes", "bpe") and self.end_of_text is not None:
            raise ValueError(f"end_of_text is for a tokenizer.json, but the tokenizer is {self.tokenizer!r}.")
        if self.held_out is not None:
            name_matcher(self.held_out, "held_out")
            if self.heldout_fraction != 0.05 or self.split_seed:
                raise ValueError(
                    f"held_out names what is held out, so heldout_fraction and split_seed mean nothing, but are "
                    f"{self.heldout_fraction} and {self.split_seed}: leave them out."
                )
        check_counts(self, "tokenizer_training_bytes", "max_document_bytes", unit="byte")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareReport:
    """The result of `prepare`.

    Attributes:
        output: Folder of the token store.
        tokenizer: Kind of the tokenizer and number of its ids.
        splits: Counts of ``train`` and ``heldout``.
        problems: Number of problems of each kind; `TokenStore.problems` lists them all.
        examples: The first few of them.
        seconds: How long it took; 0 if the same store was there already.
    """

    output: Path
    tokenizer: str
    splits: Mapping[str, SplitRecord]
    problems: Mapping[str, int]
    examples: tuple[Problem, ...]
    seconds: float

    def lines(self) -> list[str]:
        """The report in lines for the terminal."""
        made = f"made in {self.seconds:.1f} s" if self.seconds else "already there, nothing done"
        lines = [f"token store {self.output}: {made}; tokenizer {self.tokenizer}"]
        for split, counts in self.splits.items():
            size = f"{counts.tokens:>13,} tokens  {counts.text_bytes:>13,} bytes"
            lines.append(f"  {split:<8}{counts.documents:>10,} documents  {size}")
        if self.splits["heldout"].documents == 0:
            lines.append("  no document is held out: raise heldout_fraction, or cut the text finer (separator)")
        for kind, count in self.problems.items():
            lines.append(f"  {count:,} problems: {kind}")
        lines += [f"    {problem.name}: {problem.message}" for problem in self.examples]
        if (more := sum(self.problems.values()) - len(self.examples)) > 0:
            lines.append(f"    and {more:,} more: they all stand in {self.output}/problems-*.jsonl")
        return lines


def prepare(config: PrepareConfig) -> PrepareReport:
    """Read text, tokenize it, and write a token store.

    Files and records that cannot be read are reported and left out. If the output folder holds the store that the
    same request made from the same files (by name, size and time of change), nothing is done.

    Raises:
        FileNotFoundError: If the source is not there.
        FileExistsError: If the output folder holds something else and may not be overwritten.
        ValueError: If no document can be used.
        OSError: If the disk is full.
    """
    check_kind("config", config, PrepareConfig)
    begin = time.monotonic()
    if real_path(config.output).is_relative_to(real_path(config.source)):
        raise ValueError(
            f"output must not be inside source, but is {config.output} in {config.source}: its files are no text."
        )
    files, problems = list_files(config.source, pattern=config.pattern, exclude=config.exclude)
    if not files and not problems:
        raise ValueError(f"pattern {config.pattern!r} (exclude {config.exclude!r}) finds no file in {config.source}.")
    given = None if config.tokenizer == "bpe" else _given_tokenizer(config)
    request = _request(config, files, given)
    if not config.overwrite and (found := _same_store(config.output, request)) is not None:
        return _report(found, seconds=0.0)
    check_output(config.output, overwrite=config.overwrite)  # fails before the work, not after it
    check_folder_target("output", config.output)
    split = _splitter(config, files)
    tokenizer = given or _learn_tokenizer(config, files, split)
    with TokenStoreWriter(config.output, tokenizer, request=request, overwrite=config.overwrite) as writer:
        for problem in problems:
            writer.report(problem)
        with ProgressBar("tokenize", total=sum(file.size for file in files), unit="B") as progress:
            _write_documents(_read(config, files, progress), tokenizer, writer, split)
        if writer.counts()["train"].documents == 0:
            raise ValueError(_no_training_text(config, writer))
        if config.held_out is not None and writer.counts()["heldout"].documents == 0:
            raise ValueError(
                f"held_out {config.held_out!r} finds no document of {config.source} that is not in training too: give "
                "another glob."
            )
        store = writer.finish()
    return _report(store, seconds=time.monotonic() - begin)


def with_both_splits(config: PrepareConfig) -> PrepareConfig:
    """Return a config whose share of held-out documents puts at least one document into each split.

    The given share is kept if it does so; otherwise one document is held out. A text of a single document is cut into
    several at empty lines or line ends, the widest separators that suffice. The corpus is read until both splits have
    a document, so all of it only if it has few documents.

    Raises:
        ValueError: If there is one document, or copies of one, and no line end to cut it at.
    """
    files, _ = list_files(config.source, pattern=config.pattern, exclude=config.exclude)
    few: PrepareConfig | None = None
    for separator in (config.separator,) if config.separator is not None else (None, *_GAPS):
        tried = replace(config, separator=separator)
        draws = _draws(tried, files)
        if not draws:
            return config  # `prepare` reports why there is no document
        if min(draws) < config.heldout_fraction <= max(draws):
            return tried
        if len(draws) > 1:
            smallest, next_one = sorted(draws)[:2]
            few = replace(tried, heldout_fraction=(smallest + next_one) / 2)
            if separator == config.separator:  # whole documents, not parts of one
                break
    if few is None:
        raise ValueError(
            f"source must have two different documents at least, one to train on and one to hold out, but "
            f"{config.source} has one, without a line to cut it at: give more text."
        )
    return few


def _draws(config: PrepareConfig, files: list[SourceFile]) -> set[float]:
    """The draws that decide the split of each document, read until both splits have one."""
    draws = set[float]()
    with ProgressBar("look for documents", total=sum(file.size for file in files), unit="B") as progress:
        for found in _read(config, files, progress):
            if isinstance(found, Document):
                draws.add(draw(utf8(found.text), heldout_purpose(config.split_seed)))
                if min(draws) < config.heldout_fraction <= max(draws):
                    break
    return draws


def python_library(output: Path) -> PrepareConfig:
    """The demo's corpus, present on every machine: the source files of the Python standard library."""
    return PrepareConfig(
        source=Path(sysconfig.get_paths()["stdlib"]),
        output=output,
        pattern="**/*.py",
        exclude="**/site-packages,**/dist-packages,**/test,**/tests",
    )


def _given_tokenizer(config: PrepareConfig) -> Tokenizer:
    if config.tokenizer == "bytes":
        return ByteTokenizer()
    if not Path(config.tokenizer).exists():
        message = f"tokenizer must be 'bytes', 'bpe' or a path, but {config.tokenizer!r} is none of them."
        raise FileNotFoundError(message)
    return load_tokenizer(config.tokenizer, end_of_text=config.end_of_text)


def _learn_tokenizer(config: PrepareConfig, files: list[SourceFile], split: Splitter) -> Tokenizer:
    assert config.vocab_size is not None
    with ProgressBar("learn the tokenizer", total=sum(file.size for file in files), unit="B") as progress:
        texts = _training_texts(config, files, progress, split)
        return train_bpe(texts, vocab_size=config.vocab_size)


def _training_texts(
    config: PrepareConfig, files: list[SourceFile], progress: ProgressBar, split: Splitter
) -> Iterator[str]:
    """Texts of the training split; above the limit, a sample from the whole corpus and not its beginning."""
    share = config.tokenizer_training_bytes / max(1, sum(file.size for file in files))
    left = config.tokenizer_training_bytes
    for found in _read(config, files, progress):
        if isinstance(found, Document):
            content = utf8(found.text)
            chosen = share >= 1 or draw(content, "tokenizer") < share
            if chosen and len(content) <= left and split(found.name, content) == "train":
                left -= len(content)
                yield found.text


def _read(config: PrepareConfig, files: list[SourceFile], progress: ProgressBar) -> Iterator[Document | Problem]:
    return read_documents(
        files,
        field=config.field,
        separator=config.separator,
        max_document_bytes=config.max_document_bytes,
        on_bytes=progress.advance,
    )


def _splitter(config: PrepareConfig, files: list[SourceFile]) -> Splitter:
    """Decide the split of each document by its name and content; None for one that is in neither."""
    if config.held_out is None:
        return lambda _, content: split_of(content, heldout_fraction=config.heldout_fraction, seed=config.split_seed)
    with ProgressBar("compare documents", total=sum(file.size for file in files), unit="B") as progress:
        found = (one for one in _read(config, files, progress) if isinstance(one, Document))
        documents = ((document.name, utf8(document.text)) for document in found)
        return HeldOutByName.of(name_matcher(config.held_out, "held_out"), documents).split_of


def _write_documents(
    found: Iterable[Document | Problem], tokenizer: Tokenizer, writer: TokenStoreWriter, split: Splitter
) -> None:
    byte_lengths = known_byte_lengths(tokenizer)
    for batch in _batches(found):
        documents = [one for one in batch if isinstance(one, Document)]
        encoded = iter(encode_documents(documents, tokenizer, writer.folder))
        for one in batch:
            if isinstance(one, Problem):
                writer.report(one)
                continue
            ids, content = next(encoded), utf8(one.text)
            if isinstance(ids, str):
                writer.report(Problem(name=one.name, kind="not_encodable", message=ids))
                continue
            if byte_lengths is not None and not spells(ids, content, tokenizer, byte_lengths):
                message = "is changed by the tokenizer, which so has more or fewer bytes than the text: kept"
                writer.report(Problem(name=one.name, kind="altered", message=message, kept=True))
            if (side := split(one.name, content)) is None:
                message = "is a copy of a document of training: it is not held out"
                writer.report(Problem(name=one.name, kind="copy", message=message))
                continue
            writer.add(one.name, ids, num_bytes=len(content), split=side)


def _batches(found: Iterable[Document | Problem]) -> Iterator[list[Document | Problem]]:
    """Group documents into batches large enough to keep all cores busy."""
    batch: list[Document | Problem] = []
    size = 0
    for one in found:
        batch.append(one)
        size += len(one.text) if isinstance(one, Document) else 1
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    yield batch


def _request(config: PrepareConfig, files: list[SourceFile], tokenizer: Tokenizer | None) -> dict[str, Any]:
    """Everything that decides the store: options, tokenizer, and each file's name, size and time of change."""
    listing = hashlib.sha256()
    for file in files:
        listing.update(f"{file.name}\n{file.size} {file.modified}\n".encode())
    asked = asdict(config) | {"files": listing.hexdigest()}
    if tokenizer is not None:
        asked["tokenizer"] = tokenizer.fingerprint()
    if config.held_out is None:
        del asked["held_out"]  # stores of versions without it are the same
    return {name: value for name, value in asked.items() if name not in ("source", "output", "overwrite")}


def _same_store(folder: Path, request: Mapping[str, Any]) -> TokenStore | None:
    if not (folder / MANIFEST_FILE).exists():
        return None
    try:
        store = TokenStore.open(folder)
    except RetentiveError:
        return None
    return store if store.manifest.request == request else None


def _no_training_text(config: PrepareConfig, writer: TokenStoreWriter) -> str:
    if writer.counts()["heldout"].documents:
        cure = "another split_seed, or more text" if config.held_out is None else "a glob that leaves some"
        return f"every document is held out, none is left to train on: give {cure}."
    found = ", ".join(f"{count} {kind}" for kind, count in writer.problem_counts.items())
    example = writer.first_problem
    assert example is not None  # without documents and problems there were no files
    return f"no document of {config.source} can be used ({found}; {example.name}: {example.message})."


def _report(store: TokenStore, *, seconds: float) -> PrepareReport:
    tokenizer = store.manifest.tokenizer
    return PrepareReport(
        output=store.folder,
        tokenizer=f"{tokenizer.name} ({tokenizer.vocab_size:,} ids)",
        splits=store.manifest.splits,
        problems=store.manifest.problems,
        examples=tuple(islice(store.problems(), _PROBLEMS_SHOWN)),
        seconds=seconds,
    )
