"""The model card of a saved model: ``README.md``, filled in with what is known of the data, the size and the scores."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from retentive.checkpoints.manifest import ModelManifest, read_manifest
from retentive.checkpoints.tensor_file import open_tensors
from retentive.files import explain_odd_content, read_json, write_atomically
from retentive.models.registry import build

CARD_FILE = "README.md"
EVALUATION_FILE = "evaluation.json"
DATA_FILE = "training.json"
ORIGIN_FILE = "origin.json"
MARK = "# written by retentive; without this line the file is left alone"
"""Stands in a card that may be written anew."""
_CURE = "delete it: the card is then written without it"
Told = TypeVar("Told")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """What a model was trained on, for its card.

    Attributes:
        source: Name of the text.
        documents: Documents that were learned from.
        tokens: Their tokens.
        text_bytes: Bytes of their text in UTF-8.
        steps: Steps of the optimizer.
        tokens_read: Tokens read in all, repeats included.
    """

    source: str
    documents: int
    tokens: int
    text_bytes: int
    steps: int
    tokens_read: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a converted model comes from, for its card.

    Attributes:
        name: Of the model: its repository, or its folder.
        package: In whose format it was.
        licence: Its identifier, as on the source's own card; None if nothing beside the weights tells.
        licence_files: Files with its text, which came along.
        licence_name: Name of a licence whose identifier is "other".
        licence_link: Where its text is.
    """

    name: str
    package: str
    licence: str | None
    licence_files: tuple[str, ...] = ()
    licence_name: str | None = None
    licence_link: str | None = None


def save_model_card(folder: Path | str, data: TrainingData | None = None, *, origin: Origin | None = None) -> bool:
    """Write the card of a saved model, with what its folder tells.

    Args:
        folder: That `save_model` wrote.
        data: What the model was trained on, kept in the folder for the next time; None takes what was kept.
        origin: Where the model was converted from, kept likewise.

    Returns:
        Whether it was written: a card that was edited by hand is left alone.

    Raises:
        FileNotFoundError: If the folder holds no model.
    """
    folder = Path(folder)
    path = folder / CARD_FILE
    for name, told in ((DATA_FILE, data), (ORIGIN_FILE, origin)):
        if told is not None:
            known = {"weights": read_manifest(folder).weights_digest, **asdict(told)}
            write_atomically(folder / name, (json.dumps(known, indent=1) + "\n").encode())
    if path.exists() and MARK.encode() not in path.read_bytes():
        return False
    write_atomically(path, model_card(folder).encode("utf-8"))
    return True


def model_card(folder: Path | str) -> str:
    """The text of a card, from the files in a model's folder.

    Raises:
        FileNotFoundError: If the folder holds no model.
        DamagedFileError: If its weights are missing or damaged.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    with open_tensors(folder / manifest.weights_file) as reader:
        parameters = sum(shape.numel() for shape in reader.shapes().values())
        dtype = str(reader.floating_dtype()).removeprefix("torch.")
    with torch.device("meta"):
        generates = build(manifest.config).predicts_next_token
    decoder = manifest.config.decoder
    sizes = [
        ("family", manifest.config.family),
        ("parameters", f"{parameters:,} ({dtype})"),
        ("layers", f"{decoder.num_layers}"),
        ("hidden size", f"{decoder.embedding.hidden_size:,}"),
        ("heads", f"{decoder.num_heads}"),
        ("token ids", f"{decoder.embedding.vocab_size:,}"),
    ]
    origin = _told(folder / ORIGIN_FILE, manifest, _origin)
    done = "Trained with" if origin is None else f"Converted from {origin['name']} ({origin['package']}) by"
    lines = [
        *("---", MARK, "library_name: retentive", f"pipeline_tag: {'text-generation' if generates else 'fill-mask'}"),
        *(_licence_keys(origin)),
        *("tags:", "- retentive", f"- {manifest.config.family}", "---", ""),
        f"# A {manifest.config.family} of {parameters:,} parameters",
        "",
        f"{done} [retentive](https://pypi.org/project/retentive) {manifest.library_version}.",
        *([] if origin is None else ["", "## Licence", "", _licence(origin)]),
        *("", "## Sizes", "", *_table(sizes), "", "## Data", "", *_told(folder / DATA_FILE, manifest, _data)),
        *("", "## Scores", "", *(_told(folder / EVALUATION_FILE, manifest, _scores) if generates else NO_SCORES)),
        *("", "## Use", "", *(USE if generates else ENCODER_USE), ""),
    ]
    return "\n".join(lines)


USE = (
    "```python",
    "import retentive.huggingface",
    "from transformers import AutoModelForCausalLM, AutoTokenizer",
    "",
    "retentive.huggingface.register()",
    "model, tokenizer = AutoModelForCausalLM.from_pretrained(FOLDER), AutoTokenizer.from_pretrained(FOLDER)",
    "```",
    "",
    "Or without transformers: `retentive generate FOLDER`, `retentive.load_model(FOLDER)`.",
)


ENCODER_USE = (
    "```python",
    "import retentive",
    "",
    "encoder = retentive.load_model(FOLDER)",
    "logits = encoder(tokens).logits  # of the token at each position, where it is hidden",
    "```",
)

NO_SCORES = ("Bits per byte of text are not defined for an encoder, which has seen the tokens around each one.",)


def _licence_keys(origin: dict[str, Any] | None) -> list[str]:
    """What the Hub reads at the head of a card: the licence, and the model that this one is made of."""
    if origin is None:
        return []
    keys = {
        "license": origin["licence"],
        "license_name": origin["licence_name"],
        "license_link": origin["licence_link"],
    }
    if "/" in origin["name"]:  # the name of a repository
        keys["base_model"] = origin["name"]
    return [f"{key}: {value}" for key, value in keys.items() if value is not None]


def _licence(origin: dict[str, Any]) -> str:
    named = [origin["licence_name"] or origin["licence"], origin["licence_link"]]
    said = ", ".join(part for part in named if part)
    files = ", ".join(f"`{name}`" for name in origin["licence_files"])
    if not said and not files:
        return "That of its origin: no file beside the weights named one."
    return f"That of its origin: {said or 'see'}{' in ' if said and files else ' '}{files}".rstrip() + "."


def _origin(known: dict[str, Any] | None) -> dict[str, Any] | None:
    if known is None:
        return None
    content: dict[str, Any] = {name: value for name, value in known.items() if name != "weights"}
    content["licence_files"] = tuple(content.get("licence_files", ()))
    return asdict(Origin(**content))


def _table(rows: list[tuple[str, str]]) -> list[str]:
    return ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)]


def _data(known: dict[str, Any] | None) -> list[str]:
    if known is None:
        return ["Not recorded."]
    rows = [
        ("text", str(known["source"])),
        ("documents", f"{known['documents']:,}"),
        ("size", f"{known['text_bytes']:,} bytes, {known['tokens']:,} tokens"),
        ("training", f"{known['steps']:,} steps, {known['tokens_read']:,} tokens read"),
    ]
    return _table(rows)


def _scores(known: dict[str, Any] | None) -> list[str]:
    if known is None:
        return ["Not measured: `retentive evaluate FOLDER --store STORE` fills this in."]
    ways = [way for way in (known["evaluation"]["windows"], known["evaluation"]["one_pass"]) if way is not None]
    rows = [(_way(way), _bits(way)) for way in ways]
    coverage = ways[0]["coverage"]
    documents = "1 document" if coverage["documents"] == 1 else f"{coverage['documents']:,} documents"
    measured = f"On {documents} of {coverage['split']!r}, {ways[0]['bytes']:,} bytes."
    return ["Bits per byte of text, lower is better.", "", *_table(rows), "", measured]


def _way(way: Mapping[str, Any]) -> str:
    if way["method"] == "one_pass":
        return "one pass, state carried along"
    return f"windows of {way['window']:,} tokens, stride {way['stride']:,}"


def _bits(way: Mapping[str, Any]) -> str:
    error = way["standard_error"]
    return f"{way['bits_per_byte']:.4f}" + ("" if error is None else f" ± {error:.4f}")


def _told(path: Path, manifest: ModelManifest, tell: Callable[[dict[str, Any] | None], Told]) -> Told:
    """What is told of the content of a file about these weights, or of None: it may be about others, or not there."""
    if not path.is_file():
        return tell(None)
    content = read_json(path, cure=_CURE)
    with explain_odd_content(path, cure=_CURE):
        return tell(content if content.get("weights") == manifest.weights_digest else None)
