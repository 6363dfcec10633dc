"""The ordinary way to serve a model: a plain loop of ``generate`` behind the same HTTP layer, one text after the other.

``python -m benchmarks.workers.plain_server MODEL PORT``
"""

import json
import sys
import threading
from collections.abc import Iterator

import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from retentive import load_model, stream
from retentive.text.loading import load_tokenizer
from retentive.text.tokenizer import encode_prompt


def make_app(folder: str) -> FastAPI:
    """``POST /v1/completions``, streamed and greedy."""
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    turn = threading.Lock()
    app = FastAPI()

    @app.get("/readyz")
    def readyz() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/v1/completions")
    async def completions(request: Request) -> StreamingResponse:
        asked = await request.json()

        def events() -> Iterator[str]:
            with turn:
                for (token,) in stream(
                    model, encode_prompt(tokenizer, asked["prompt"]), max_new_tokens=asked["max_tokens"]
                ):
                    text = "" if token is None else tokenizer.token_bytes(token).decode("utf-8", "replace")
                    yield f"data: {json.dumps({'choices': [{'text': text}]})}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    return app


if __name__ == "__main__":
    torch.set_num_threads(2)
    uvicorn.run(make_app(sys.argv[1]), port=int(sys.argv[2]), log_level="warning")
