"""Reading other packages' checkpoints: safetensors or ``.bin``, whole or in shards, without running code."""

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from retentive.checkpoints.conversion.gguf import SUFFIX, GgufFile, HuggingFaceView
from retentive.checkpoints.tensor_file import listed, open_tensors
from retentive.errors import DamagedFileError, MismatchError
from retentive.files import read_json

SETTINGS_FILE = "config.json"
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
INSIDE = ("model", "state_dict", "module")
"""Names under which training scripts keep the weights beside other things."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A checkpoint that can be read.

    Attributes:
        path: The path that was given.
        shapes: Of every tensor.
        read: Gives a tensor by its name.
        settings: Content of the settings file beside it; empty without one.
    """

    path: Path
    shapes: Mapping[str, torch.Size]
    read: Callable[[str], Tensor]
    settings: Mapping[str, Any]


def open_source(path: Path | str, settings: Path | str | None = None) -> Source:
    """Find the weights and settings of a checkpoint.

    Args:
        path: A folder as `save_pretrained` writes it, or one file of weights.
        settings: A JSON file of settings, for checkpoints without ``config.json`` beside them.

    Raises:
        FileNotFoundError: If there are no weights, or no such settings.
        DamagedFileError: If a file is cut off, or a shard is missing.
        MismatchError: If a file could only be read by running code in it.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"source must be a folder or file of weights, but there is no {path}.")
    if path.suffix == SUFFIX:
        view = HuggingFaceView(GgufFile(path))
        return Source(path=path, shapes=view.shapes, read=view.read, settings=view.settings)
    files = _weight_files(path)
    homes: dict[str, Callable[[], Tensor]] = {}
    shapes: dict[str, torch.Size] = {}
    for file in files:
        found = _read_pickle(file) if file.suffix in PICKLES else None
        if found is None:
            with open_tensors(file) as reader:
                shapes.update(reader.shapes())
                homes.update({name: _later(file, name) for name in reader.names})
        else:
            shapes.update({name: tensor.shape for name, tensor in found.items()})
            homes.update({name: _held(tensor) for name, tensor in found.items()})
    folder = path if path.is_dir() else path.parent
    given = Path(settings) if settings is not None else folder / SETTINGS_FILE
    if settings is not None and not given.is_file():
        raise FileNotFoundError(f"settings must be a JSON file, but there is no {given}.")
    return Source(
        path=path,
        shapes=shapes,
        read=lambda name: homes[name](),
        settings=read_json(given, cure="copy it again") if given.is_file() else {},
    )


def _weight_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    for name in INDEXES:
        if (path / name).is_file():
            table = read_json(path / name, cure="copy it again").get("weight_map")
            if not isinstance(table, dict):
                raise DamagedFileError(f"{path / name} holds no weight_map; copy it again.")
            files = sorted({str(file) for file in cast("dict[str, Any]", table).values()})
            strange = [file for file in files if Path(file).name != file]
            if strange:
                raise DamagedFileError(f"{path / name} points outside of its folder ({listed(strange)}).")
            lost = [file for file in files if not (path / file).is_file()]
            if lost:
                raise DamagedFileError(f"{path} lacks {listed(lost)}, which {name} lists; copy them again.")
            return [path / file for file in files]
    for name in WEIGHTS:
        if (path / name).is_file():
            return [path / name]
    others = sorted(file for file in path.iterdir() if file.suffix in (".safetensors", *PICKLES))
    if len(others) != 1:
        found = f"{len(others)} files of weights ({listed(file.name for file in others)})" if others else "none"
        raise FileNotFoundError(
            f"{path} must hold {', '.join((*WEIGHTS, *INDEXES))} or a single other file of weights, but has {found}."
        )
    return others


def _read_pickle(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a file in torch's own format, without running code."""
    try:
        try:
            content: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):  # files of torch before 1.6 cannot be mapped
                raise
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise MismatchError(
            f"{file} holds more than tensors, and could only be read by running code in it, which is refused; save its "
            f"weights alone, as safetensors, where it comes from ({str(error).splitlines()[0]})."
        ) from error
    except Exception as error:  # pickle reads each letter of a text file as an instruction
        raise DamagedFileError(f"{file} cannot be read ({error!r}); copy it again.") from error
    for name in INSIDE:
        inner: Any = content.get(name) if isinstance(content, dict) else None
        if isinstance(inner, dict):
            content = inner
            break
    named = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
    tensors = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    if not tensors or len(tensors) < len(named):
        other = listed(name for name in named if name not in tensors) or type(content).__name__
        raise MismatchError(f"{file} must hold tensors by name and nothing else, but has {other}.")
    return tensors


def _later(file: Path, name: str) -> Callable[[], Tensor]:
    def read() -> Tensor:
        with open_tensors(file) as reader:
            return reader.read(name)

    return read


def _held(tensor: Tensor) -> Callable[[], Tensor]:
    return lambda: tensor.detach().clone()
