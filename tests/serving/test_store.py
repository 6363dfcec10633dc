"""A datastore beside a model: searched by anybody, and read by a RETRO."""

import os
from collections.abc import Generator
from pathlib import Path

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
    backbone = TransformerConfig(vocab_size=tokenizer.vocab_size, hidden_size=16, num_layers=2, num_heads=2)
    config = RetroConfig(
        backbone=backbone,
        chunk_size=8,
        cross_layers=(1, 2),
        encoder_hidden_size=16,
        encoder_num_layers=1,
        encoder_num_heads=2,
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


def test_what_a_row_reads_is_told_and_is_what_the_model_asked_for(with_store: Running) -> None:
    service = with_store.service
    assert service.store is not None
    asked = {"model": "retro", "input": "Tea is made of", "max_output_tokens": 21, "temperature": 0, "ignore_eos": True}
    first = call(with_store, "POST", "/v1/responses", {**asked, "return_neighbours": True}).json
    more = {**asked, "input": " hot", "previous_response_id": first["id"], "return_neighbours": True}
    second = call(with_store, "POST", "/v1/responses", more).json
    told = [*first["neighbours"], *second["neighbours"]]
    # What generate asks for over the whole text, in one call.
    retriever = StoreRetriever(service.store, k=2, tokenizer=service.words.tokenizer)
    state = None
    for text in ("Tea is made of", " hot"):
        tokenizer = service.words.tokenizer
        ids = encode_prompt(tokenizer, text) if state is None else tokenizer.encode(text)
        state = generate(service.model, ids, max_new_tokens=21, retriever=retriever, state=state).state
    assert [[one["id"] for one in read["passages"]] for read in told] == [
        [chunk for chunk in found.ids if chunk >= 0] for found in retriever.found
    ]
    assert [read["from_token"] for read in told] == [8 * (number + 1) for number in range(len(told))]
    assert {one["document"] for read in told for one in read["passages"]} <= {"ships", "tea"}
    stored = call(with_store, "GET", f"/v1/responses/{first['id']}").json
    assert stored["neighbours"] == first["neighbours"]


def test_the_page_shows_passages_beside_the_text_and_searches(with_store: Running, browser) -> None:
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    page.set_default_timeout(20000)
    page.goto(with_store.url)
    page.get_by_label("Words to look for").fill("hot tea")
    page.get_by_role("button", name="Search").click()
    page.locator("#found summary", has_text="tea, line 1").first.click()
    assert page.locator("#found details[open] p").inner_text() in DOCUMENTS[1][1]
    page.get_by_text("Sampling", exact=True).click()
    page.get_by_label("Most new tokens").fill("12")
    page.get_by_label("Message").fill("Tea is made of hot water")
    page.get_by_role("button", name="Send").click()
    page.get_by_role("button", name="Edit the turn: Tea is made of hot water").wait_for()
    page.locator("#send:enabled").wait_for()
    beside = page.get_by_role("complementary", name="Passages that were read")
    assert beside.locator("h3").first.inner_text() == "From token 8"
    beside.locator("summary").first.click()
    assert beside.locator("details[open] p").first.inner_text().strip()
    if folder := os.environ.get("RETENTIVE_SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / "passages.png"))
    page.close()
