"""What ``retentive serve`` is told: the model, where it listens, where sessions live, and the limits."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from retentive.config_types import check_types
from retentive.engine.choice import check_engine
from retentive.files.paths import real_path


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much one request, one owner and all together may take; what is beyond is refused, and never waits in memory.

    Args:
        max_body_bytes: Of a request, but for state files.
        max_state_bytes: Of a state file that is put.
        max_prompt_tokens: Tokens that one request may give to read.
        max_new_tokens: Largest ``max_tokens`` of a request.
        max_choices: Largest ``n``, and the most prompts of a request times ``n``.
        max_rows: Texts that are continued at the same time.
        max_waiting: Texts that wait for a place among them.
        max_streams: Requests of one owner that are answered at the same time; twice as many may be open.
        max_states: Stored states of one owner.
    """

    max_body_bytes: int = 4 << 20
    max_state_bytes: int = 256 << 20
    max_prompt_tokens: int = 1 << 18
    max_new_tokens: int = 4096
    max_choices: int = 8
    max_rows: int = 32
    max_waiting: int = 64
    max_streams: int = 32
    max_states: int = 1000

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, but is {value}.")


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Serve a model over HTTP: OpenAI's API, stored sessions, and a page.

    Args:
        checkpoint: Folder of a model, as "retentive train" or "retentive convert" writes it.
        store: Folder of a datastore: searched by /v1/search, and read by a RETRO.
        k: Neighbours of each chunk in the store, for a RETRO.
        host: Address to listen on. Wider than this machine, it needs api_key_file.
        port: Port to listen on; 0 takes a free one and says which.
        sessions: Folder of stored states, or "redis://host:port/0"; without it, a folder "sessions" beside the model.
        api_key_file: File of API keys, one a line; each key is an owner, who sees nothing of the others.
        name: Name of the model in the API; without it, the folder's name.
        device: "cpu", "cuda", or "auto": a GPU where there is one.
        replicas: Copies of the model that answer side by side, with engine "ray".
        engine: "process" answers in this process, "ray" through Ray Serve, on one machine or a cluster.
        step_engine: How tokens are read one by one: "eager", "compile", "onnx", "onnx-int8", "onnx-int4", or a folder
            of "retentive export", with which a server starts at once.
        cache_bytes: Memory for the states of prompts, so that texts which begin alike are read once; 0 keeps none.
        cache_folder: Folder for states of prompts that memory has no room for, and for all of them at the end; without
            it they are forgotten. With engine "process" alone, for one process writes to it.
        cache_disk_bytes: How much the files in it may take.
        limits: How much requests may take.
    """

    checkpoint: Path
    store: Path | None = None
    k: int = 2
    host: str = "127.0.0.1"
    port: int = 8000
    sessions: str | None = None
    api_key_file: Path | None = None
    name: str | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    replicas: int = 1
    engine: Literal["process", "ray"] = "process"
    step_engine: str = "eager"
    cache_bytes: int = 256 << 20
    cache_folder: Path | None = None
    cache_disk_bytes: int = 16 << 30
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        check_engine(self.step_engine, "step_engine")
        for name in ("sessions", "name"):
            if getattr(self, name) == "":
                raise ValueError(f"{name} must be left out or name something, but is empty.")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must be from 0 to 65535, but is {self.port}; 0 takes a free one.")
        if self.replicas < 1:
            raise ValueError(f"replicas must be at least 1, but is {self.replicas}.")
        if self.engine not in ("process", "ray"):
            raise ValueError(f"engine must be 'process' or 'ray', but is {self.engine!r}.")
        if self.engine == "process" and self.replicas > 1:
            raise ValueError(f"replicas must be 1 with engine 'process', but is {self.replicas}; add --engine ray.")
        if self.engine == "ray" and self.port == 0:
            raise ValueError("port must be from 1 to 65535 with engine 'ray', but is 0.")
        for name, none in (("cache_bytes", "no memory"), ("cache_disk_bytes", "no files")):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0 ({none}), but is {getattr(self, name)}.")
        if self.cache_folder is not None and self.engine == "ray":
            raise ValueError(
                "cache_folder must be left out with engine 'ray', whose replicas are many processes, but is "
                f"{self.cache_folder}: one process writes to it."
            )
        if self.cache_folder is None and self.cache_disk_bytes != ServeConfig.cache_disk_bytes:
            raise ValueError("cache_folder must be given for cache_disk_bytes, but is not: so much may be in it.")
        if not self.is_loopback and self.api_key_file is None:
            raise ValueError(
                f"api_key_file must be given for host {self.host!r}, which other machines reach; give a file with one "
                "key a line, or listen on 127.0.0.1."
            )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches the host."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def model_name(self) -> str:
        """The name of the model in the API."""
        return self.name or real_path(self.checkpoint).name

    @property
    def sessions_place(self) -> str:
        """The folder of stored states, or the address of a Redis."""
        return self.sessions or str(self.checkpoint / "sessions")
