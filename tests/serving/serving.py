"""A small model in a folder, and a server of it on a real port."""

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import openai
import torch

from retentive.checkpoints import save_model
from retentive.models.protocol import FamilyConfig
from retentive.models.registry import build
from retentive.models.retnet import RetNetConfig
from retentive.serving.config import ServeConfig
from retentive.serving.server import Server, address_of, listen
from retentive.serving.service import Service
from retentive.text.byte_tokenizer import ByteTokenizer

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)

SMALL_RETNET = RetNetConfig(
    vocab_size=ByteTokenizer().vocab_size, hidden_size=32, num_layers=2, num_heads=2, chunk_size=16
)


def save_small_model(
    folder: Path, *, seed: int = 0, template: bool = True, config: FamilyConfig = SMALL_RETNET
) -> Path:
    """A RetNet over bytes or another model, with a chat template or without."""
    torch.manual_seed(seed)
    tokenizer = ByteTokenizer()
    model = build(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)  # so that the likeliest token depends on the text
    save_model(model, folder, tokenizer)
    if template:
        (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    url: str
    service: Service
    server: Server

    def client(self, key: str = "none") -> openai.OpenAI:
        """The official client."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60)


@contextmanager
def running(config: ServeConfig, *, finish_seconds: float = 5.0, port: int | None = None) -> Generator[Running]:
    """Serve in a thread until the block ends; as one of several replicas, on a port of its own."""
    place = listen(config.host, config.port if port is None else port)
    server = Server(service := Service(config), finish_seconds=finish_seconds)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [place]})
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        yield Running(address_of(place), service, server)
    finally:
        server.should_exit = True
        thread.join()
        place.close()
