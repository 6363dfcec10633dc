"""Packages that extras of this one bring, and what is said where one is not installed."""

from importlib import import_module

EXTRA_OF = {
    "accelerate": "hf",
    "docstring_parser": "train",
    "faiss": "retrieval",
    "fastapi": "serve",
    "gguf": "gguf",
    "jinja2": "chat",
    "jsonargparse": "train",
    "lm_eval": "harness",
    "lxml_html_clean": "readers",
    "matplotlib": "train",
    "mcp": "mcp",
    "milvus_lite": "milvus",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "onnxscript": "onnx",
    "peft": "hf",
    "prometheus_client": "serve",
    "pyarrow": "train",
    "pydantic": "serve",
    "pymilvus": "milvus",
    "pypdfium2": "readers",
    "ray": "ray",
    "redis": "redis",
    "regex": "retrieval",
    "starlette": "serve",
    "tantivy": "retrieval",
    "tensorboard": "train",
    "tokenizers": "train",
    "trafilatura": "readers",
    "transformers": "hf",
    "uvicorn": "serve",
    "yaml": "train",
    "zstandard": "retrieval",
}
"""Module -> the extra of this package that installs it."""


def require(package: str, purpose: str, *, extra: str | None = None) -> None:
    """Import a package of an extra, or say which one brings it.

    Args:
        package: Its module, a key of `EXTRA_OF`.
        purpose: What needs it, as the first words of the error.
        extra: The one that brings all that the purpose needs, where several bring the package.

    Raises:
        ModuleNotFoundError: If it is not installed.
    """
    try:
        import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:  # it is there, and what it needs itself is not
            raise
        raise ModuleNotFoundError(missing(package, purpose, extra=extra), name=package) from error


def missing(package: str, purpose: str = "this", *, extra: str | None = None) -> str:
    """What is said of a package that is not installed."""
    return f"{purpose} needs {package}, which is not installed: pip install 'retentive[{extra or EXTRA_OF[package]}]'"
