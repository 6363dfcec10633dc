"""A datastore beside a model: searched by anybody, and read by a RETRO."""

from collections.abc import Generator

import pytest
import torch

from retentive import generate, save_model
from retentive.generation import StoreRetriever
from retentive.models.registry import build
from retentive.models.retro import RetroConfig
from retentive.models.transformer import TransformerConfig
from retentive.retrieval import Datastore
from retentive.serving.config import ServeConfig
from retentive.text.byte_tokenizer import ByteTokenizer
from retentive.text.tokenizer import encode_prompt
from serving.http import call
from serving.serving import Running, running

DOCUMENTS = [
    ("ships", "The ships sail over the sea at night. " * 3),
    ("tea", "Tea is made of leaves and hot water. " * 3),
]


@pytest.fixture(scope="module")
def with_store(tmp_path_factory: pytest.TempPathFactory) -> Generator[Running]:
    folder = tmp_path_factory.mktemp("retro")
    tokenizer = ByteTokenizer()
    Datastore.build(DOCUMENTS, folder / "store", chunk_size=8)
    torch.manual_seed(0)
    base = TransformerConfig(vocab_size=tokenizer.vocab_size, hidden_size=16, num_layers=2, num_heads=2)
    config = RetroConfig(
        base=base, chunk_size=8, cross_layers=(1, 2), encoder_hidden_size=16, encoder_num_layers=1, encoder_num_heads=2
    )
    save_model(build(config), folder / "retro", tokenizer)
    served = ServeConfig(checkpoint=folder / "retro", store=folder / "store", port=0, sessions=str(folder / "s"))
    with running(served) as one:
        yield one


def test_the_store_is_searched(with_store: Running) -> None:
    assert call(with_store, "GET", "/v1/models").json["data"][0]["has_store"] is True
    found = call(with_store, "POST", "/v1/search", {"query": "hot tea leaves", "k": 2}).json["data"]
    assert {one["document"] for one in found} == {"tea"}
    assert found[0]["text"] in DOCUMENTS[1][1]
    assert found[0]["line"] == 1
    refused = call(with_store, "POST", "/v1/search", {"query": "  "})
    assert (refused.status, refused.json["error"]["param"]) == (400, "query")


def test_rows_of_a_retro_read_what_generate_reads(with_store: Running) -> None:
    service = with_store.service
    assert service.store is not None
    retriever = StoreRetriever(service.store, k=2, tokenizer=service.words.tokenizer)
    prompt = "Tea is made of hot water."
    ids = encode_prompt(service.words.tokenizer, prompt)
    alone = generate(service.model, ids, max_new_tokens=20, retriever=retriever).tokens[0].tolist()
    without = generate(service.model, ids, max_new_tokens=20).tokens[0].tolist()
    assert alone != without  # neighbours are read at all
    asked = {"model": "retro", "prompt": prompt, "max_tokens": 20, "temperature": 0, "ignore_eos": True}
    answer = call(with_store, "POST", "/v1/completions", asked).json["choices"][0]
    assert answer["text"] == service.words.tokenizer.decode(alone)
