"""A copy of a model's folder whose weights are whole numbers."""

from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from typing import cast

from retentive.checkpoints.conversion.companions import copy_companions
from retentive.checkpoints.manifest import CONFIG_FILE
from retentive.checkpoints.model_card import ORIGIN_FILE
from retentive.checkpoints.weights import SavableTokenizer, load_model, load_own_tokenizer, save_model
from retentive.files import new_folder
from retentive.files.targets import check_new_folder
from retentive.layers.quantised import QuantisationConfig
from retentive.models.quantise import quantise
from retentive.text.tokenizer import DESCRIPTION_FILE, TOKENIZER_FILE


@dataclass(frozen=True, slots=True)
class QuantisedCopy:
    """What `quantised_copy` did.

    Attributes:
        bytes_before: Of the weights of floats.
        bytes_after: Of the rounded ones, with their scales.
        wide: Names of what has 8 bits because 4 bits do not fit its shape.
    """

    bytes_before: int
    bytes_after: int
    wide: tuple[str, ...]


def quantised_copy(source: Path | str, dest: Path | str, config: QuantisationConfig) -> QuantisedCopy:
    """Round a saved model's weights and save it with its tokenizer, chat template, ends, origin and licence.

    Args:
        source: Folder of a model.
        dest: Folder that is made.
        config: How weights are rounded.

    Raises:
        FileExistsError: If ``dest`` is not empty.
        FileNotFoundError: If ``source`` holds no model.
        ValueError: If ``dest`` cannot be written, or the model is quantised already.
    """
    source, dest = Path(source), Path(dest)
    check_new_folder("dest", dest)
    model = load_model(source)
    before = sum(parameter.nbytes for parameter in model.parameters())
    wide = quantise(model, config)
    has_tokenizer = any((source / name).is_file() for name in (DESCRIPTION_FILE, TOKENIZER_FILE))
    tokenizer = cast("SavableTokenizer", load_own_tokenizer(source)) if has_tokenizer else None
    with new_folder(dest, last=CONFIG_FILE) as unfinished:
        if (source / ORIGIN_FILE).is_file():
            copyfile(source / ORIGIN_FILE, unfinished / ORIGIN_FILE)  # first, for the card tells it
        save_model(model, unfinished, tokenizer)
        copy_companions(source, unfinished)
    after = sum(parameter.nbytes for parameter in model.parameters())
    return QuantisedCopy(before, after, tuple(wide))
