"""GGUF files, read as the Hugging Face folders that they were made of."""

from retentive.checkpoints.conversion.gguf.file import SUFFIX, GgufFile
from retentive.checkpoints.conversion.gguf.layout import HuggingFaceView
from retentive.checkpoints.conversion.gguf.vocabulary import read_tokenizer, tokenizer_files

__all__ = ["SUFFIX", "GgufFile", "HuggingFaceView", "read_tokenizer", "tokenizer_files"]
