"""Models, tokens, and search in the datastore."""

import asyncio
from typing import Any

from fastapi import APIRouter

from retentive.serving.answers.asking import check_model
from retentive.serving.answers.passages import search
from retentive.serving.errors import ApiError, invalid
from retentive.serving.routes.common import Owner
from retentive.serving.service import Service
from retentive.serving.wire.common import ModelCard, ModelList
from retentive.serving.wire.states import (
    DetokenizeAnswer,
    DetokenizeRequest,
    SearchAnswer,
    SearchRequest,
    TokenizeAnswer,
    TokenizeRequest,
)
from retentive.text.tokenizer import encode_prompt


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["text"])

    def card() -> ModelCard:
        return ModelCard(
            id=service.config.model_name,
            created=service.created,
            has_chat_template=service.words.template is not None,
            has_store=service.store is not None,
            reads_neighbours=service.reads_neighbours,
        )

    @routes.get("/v1/models", response_model=ModelList)
    async def list_models(owner: Owner) -> Any:
        """The served model."""
        return ModelList(data=[card()])

    @routes.get("/v1/models/{model:path}", response_model=ModelCard)
    async def get_model(model: str, owner: Owner) -> Any:
        """The served model, by its name."""
        check_model(service, model)
        return card()

    @routes.post("/v1/search", response_model=SearchAnswer, response_model_exclude_none=True)
    async def search_store(asked: SearchRequest, owner: Owner) -> Any:
        """Passages of the datastore that are near to a text."""
        if service.store is None:
            raise ApiError(
                404, "this server has no datastore to search: start it with --store FOLDER.", code="no_store"
            )
        return SearchAnswer(data=await asyncio.to_thread(search, service.store, asked.query, asked.k))

    _add_tokens(service, routes)
    return routes


def _add_tokens(service: Service, routes: APIRouter) -> None:
    """Text to ids and back."""

    @routes.post("/v1/tokenize", response_model=TokenizeAnswer)
    async def tokenize(asked: TokenizeRequest, owner: Owner) -> Any:
        """Token ids of a text."""
        tokenizer = service.words.tokenizer
        encode = (lambda text: encode_prompt(tokenizer, text)) if asked.as_prompt else tokenizer.encode
        ids = await asyncio.to_thread(encode, asked.text)
        return TokenizeAnswer(tokens=ids, count=len(ids))

    @routes.post("/v1/detokenize", response_model=DetokenizeAnswer)
    async def detokenize(asked: DetokenizeRequest, owner: Owner) -> Any:
        """The text of token ids."""
        tokenizer = service.words.tokenizer
        foreign = [token for token in asked.tokens if token >= tokenizer.vocab_size]
        if foreign:
            raise invalid(f"tokens must be from 0 to {tokenizer.vocab_size - 1}, but has {foreign[0]}.", "tokens")
        return DetokenizeAnswer(text=await asyncio.to_thread(tokenizer.decode, asked.tokens))
