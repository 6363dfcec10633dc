"""What comes along with a converted model beside its weights and tokenizer: ends, sampling, licence and name."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from shutil import copyfile
from typing import Any

from retentive.checkpoints.conversion.gguf import SUFFIX
from retentive.checkpoints.manifest import CONFIG_FILE
from retentive.checkpoints.model_card import CARD_FILE, Origin
from retentive.checkpoints.transformers_files import GENERATION_FILE
from retentive.files import explain_full_disk, read_json, write_atomically
from retentive.files.paths import real_path

SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
DEFAULT_IDS = {"llama": (1, 2, None), "mistral": (1, 2, None), "gpt2": (50256, 50256, None), "qwen2": (None,) * 3} | {
    "qwen3": (None,) * 3,
    "gemma": (2, 1, 0),
}
"""What transformers takes where a ``config.json`` names no begin, end or pad, by its ``model_type``."""

VOCABULARIES = ("tokenizer.model", "vocab.json", "merges.txt")
LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "COPYING*", "USE_POLICY*")


def origin_of(source: Path, settings: Mapping[str, Any], package: str) -> Origin:
    """Return where a model comes from: its name, and its licence if a file beside the weights tells."""
    named = str(settings.get("_name_or_path") or "")
    is_repository = re.fullmatch(r"[\w.-]+/[\w.-]+", named) is not None
    if source.suffix == SUFFIX:
        return Origin(name=named or source.name, package=package, licence=settings.get("license"))
    folder = source if source.is_dir() else source.parent
    head = _front_matter(folder / CARD_FILE)
    return Origin(
        name=named if is_repository else real_path(source).name,
        package=package,
        licence=head.get("license") or (str(settings["license"]) if "license" in settings else None),
        licence_files=tuple(path.name for path in _licences(folder)),
        licence_name=head.get("license_name"),
        licence_link=head.get("license_link"),
    )


def check_companions(source: Path) -> None:
    """Validate what `copy_companions` copies, before anything is written.

    Raises:
        DamagedFileError: If the ways in which the source is sampled are not JSON.
    """
    path = (source if source.is_dir() else source.parent) / GENERATION_FILE
    if source.suffix != SUFFIX and path.is_file():
        read_json(path, cure="copy it again, or remove it")


def copy_companions(source: Path, dest: Path) -> None:
    """Copy a source's licence, the ways in which it is sampled, and what older tokenizers read its vocabulary from."""
    folder = source if source.is_dir() else source.parent
    others = (folder / name for name in (GENERATION_FILE, *VOCABULARIES))
    for path in (*_licences(folder), *(path for path in others if path.is_file())):
        with explain_full_disk(dest / path.name):
            copyfile(path, dest / path.name)


def keep_special_ids(dest: Path, settings: Mapping[str, Any], tokenizer: object | None) -> None:
    """Give a converted folder the source's ids of begin and end, and a pad that is no end.

    Args:
        dest: The folder.
        settings: Of the source.
        tokenizer: That was saved in the folder.
    """
    defaults = dict(zip(SPECIAL_IDS, DEFAULT_IDS.get(str(settings.get("model_type")), ()), strict=False))
    said = {name: settings.get(name, defaults.get(name)) for name in SPECIAL_IDS if name in {**defaults, **settings}}
    ends = said.get("eos_token_id")
    if said.get("pad_token_id") is None or said["pad_token_id"] in (ends if isinstance(ends, list) else [ends]):
        said.pop("pad_token_id", None)
        pad: int | None = getattr(tokenizer, "pad", None)
        if pad is not None:
            said["pad_token_id"] = pad
    path = dest / CONFIG_FILE
    content = {**read_json(path, cure="convert again"), **said}
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())
    if not (dest / GENERATION_FILE).exists() and said:
        # As transformers would derive it from the source's config: its own pad, with which it fills up ended rows.
        derived = {name: settings.get(name, defaults.get(name)) for name in SPECIAL_IDS}
        kept = {name: value for name, value in derived.items() if value is not None}
        write_atomically(dest / GENERATION_FILE, (json.dumps(kept, indent=2) + "\n").encode())


def _licences(folder: Path) -> list[Path]:
    found = {path for pattern in LICENCES for path in folder.glob(pattern) if path.is_file()}
    return sorted(found)


def _front_matter(path: Path) -> dict[str, str]:
    """Return the plain lines of the YAML at the head of a model card; empty without one."""
    if not path.is_file():
        return {}
    lines = path.read_text("utf-8", errors="replace").splitlines()
    if not lines or lines[0].strip() != "---" or "---" not in (line.strip() for line in lines[1:]):
        return {}
    end = next(place for place, line in enumerate(lines[1:], 1) if line.strip() == "---")
    pairs = (re.fullmatch(r"(\w+):\s*(\S.*)", line) for line in lines[1:end])
    return {pair[1]: pair[2].strip().strip("'\"") for pair in pairs if pair}
