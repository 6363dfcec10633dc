"""Loading a tokenizer of any kind from its folder."""

from pathlib import Path

from retentive.errors import DamagedFileError, MismatchError
from retentive.files import check_version
from retentive.text.byte_tokenizer import ByteTokenizer
from retentive.text.companions import Companions
from retentive.text.nucleotide_tokenizer import NucleotideTokenizer
from retentive.text.subword_tokenizer import SubwordTokenizer, open_tokenizer_file
from retentive.text.tokenizer import DESCRIPTION_FILE, FORMAT_VERSION, TOKENIZER_FILE, Tokenizer, read_tokenizer_json


def load_tokenizer(path: Path | str, *, end_of_text: str | None = None) -> Tokenizer:
    """Load a tokenizer that this library saved, or a ``tokenizer.json`` of another one.

    Args:
        path: A folder that `Tokenizer.save` wrote, any folder with a ``tokenizer.json``, or such a file itself.
        end_of_text: For the ``tokenizer.json`` of another library, the special token that ends a document; ``None``
            takes the ``eos_token`` of the ``tokenizer_config.json`` beside it, or else the one usual name in its
            vocabulary.

    Raises:
        FileNotFoundError: If there is no tokenizer.
        DamagedFileError: If a file is damaged.
        MismatchError: If another version of this library wrote it, or its kind is unknown.
    """
    path = Path(path)
    description = path / DESCRIPTION_FILE
    if not description.exists():
        return open_tokenizer_file(path / TOKENIZER_FILE if path.is_dir() else path, end_of_text=end_of_text)
    if end_of_text is not None:
        raise ValueError(f"end_of_text is for a tokenizer from elsewhere, but {str(path)!r} holds one of our own.")
    content = read_tokenizer_json(description)
    check_version(content, description, FORMAT_VERSION, cure="prepare the text again")
    if content.get("kind") == "bytes":
        return ByteTokenizer()
    if content.get("kind") == "nucleotides":
        return NucleotideTokenizer()
    kind, ending = content.get("kind"), content.get("end_of_text")
    if isinstance(kind, str) and kind not in ("bpe", "file"):
        raise MismatchError(
            f"{description} is of a tokenizer of kind {kind!r}, but this retentive knows bytes, nucleotides, bpe and "
            "file: pass the tokenizer itself where there is an argument for it, or use the version that wrote it."
        )
    if not isinstance(kind, str) or not isinstance(ending, str):
        raise DamagedFileError(f"{description} describes no tokenizer: copy it again, or prepare the text again.")
    begin = content.get("begin_of_text")  # folders of earlier versions have none: documents begin as they end there
    if begin is not None and not isinstance(begin, str):
        raise DamagedFileError(f"{description} names a begin_of_text that is no string ({begin!r}): copy it again.")
    companions = Companions.read(path) if kind == "file" else None
    return SubwordTokenizer.open(
        path / TOKENIZER_FILE, name=kind, end_of_text=ending, begin_of_text=begin, companions=companions
    )
