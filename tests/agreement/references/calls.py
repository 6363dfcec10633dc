"""``python -m references.calls PACKAGE FILE``: what can be called in a package, and with which arguments."""

import inspect
import json
import sys
from importlib import import_module
from pathlib import Path

CALLS = {
    "yet_another_retnet": [
        "yet_another_retnet.retnet:RetNet",
        "yet_another_retnet.retnet:RetNet.forward",
        "yet_another_retnet.retnet:RetNet.forward_parallel",
        "yet_another_retnet.retnet:RetNet.forward_recurrent",
        "yet_another_retnet.retnet:RetNet.forward_chunkwise",
        "yet_another_retnet.retnet:retnet_1_3b",
        "yet_another_retnet.retnet:retnet_2_7b",
        "yet_another_retnet.retnet:retnet_6_7b",
        "yet_another_retnet.retention:MultiScaleRetention",
        "yet_another_retnet.retention:MultiScaleRetention.forward",
        "yet_another_retnet.retention:MultiScaleRetention.forward_parallel",
        "yet_another_retnet.retention:MultiScaleRetention.forward_recurrent",
        "yet_another_retnet.retention:MultiScaleRetention.forward_chunkwise",
        "yet_another_retnet.retention:retention_parallel",
        "yet_another_retnet.retention:retention_recurrent",
        "yet_another_retnet.retention:retention_chunkwise",
    ],
    "recurrent_memory_transformer_pytorch": [
        "recurrent_memory_transformer_pytorch:RecurrentMemoryTransformer",
        "recurrent_memory_transformer_pytorch:RecurrentMemoryTransformer.forward",
        "recurrent_memory_transformer_pytorch:RecurrentMemoryTransformerWrapper",
        "recurrent_memory_transformer_pytorch:RecurrentMemoryTransformerWrapper.forward",
        "recurrent_memory_transformer_pytorch:RecurrentMemoryTransformerWrapper.generate",
    ],
    "retro_pytorch": [
        "retro_pytorch:RETRO",
        "retro_pytorch:RETRO.forward",
        "retro_pytorch:RETRODataset",
        "retro_pytorch:TrainingWrapper",
        "retro_pytorch:TrainingWrapper.generate",
        "retro_pytorch:TrainingWrapper.get_dataloader",
        "retro_pytorch:TrainingWrapper.get_optimizer",
        "retro_pytorch.optimizer:get_optimizer",
        "retro_pytorch.data:knn_to_retrieved_chunks",
        "retro_pytorch.retrieval:tokenize",
        "retro_pytorch.retrieval:bert_embed",
        "retro_pytorch.retrieval:doc_text_to_chunks_and_seq_indices",
        "retro_pytorch.retrieval:text_folder_to_chunks_",
        "retro_pytorch.retrieval:chunks_to_embeddings_",
        "retro_pytorch.retrieval:chunks_to_index_and_embed",
        "retro_pytorch.retrieval:chunks_to_precalculated_knn_",
        "retro_pytorch.retrieval:index_embeddings",
        "retro_pytorch.training:top_k",
        "retro_pytorch.training:top_p",
    ],
}


def arguments(call: str) -> list[list[str]]:
    """Name, kind and default of every argument."""
    module, _, path = call.partition(":")
    found = import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    if path.endswith(".generate"):  # behind a decorator that does not tell its arguments
        found = inspect.unwrap(found)
        found = next(cell.cell_contents for cell in found.__closure__ or () if callable(cell.cell_contents))
    listed = inspect.signature(found).parameters.values()
    return [[one.name, one.kind.name, repr(one.default)] for one in listed if one.name != "self"]


def main(package: str, file: str) -> None:
    """Write what the package says."""
    Path(file).write_text(json.dumps({call: arguments(call) for call in CALLS[package]}, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
