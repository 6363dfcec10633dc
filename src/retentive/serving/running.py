"""Answers that are being written, and their end by name: any replica takes a cancel of any other's."""

import asyncio
import logging
import time
from collections.abc import Generator
from contextlib import contextmanager

from retentive.serving.errors import STORAGE_ERRORS, for_log
from retentive.serving.rows import RowGroup
from retentive.serving.service import Service

LOG = logging.getLogger("retentive.serving")
LISTEN_SECONDS = 0.25
"""How often a replica looks whether the end of its answers was asked for elsewhere."""
EVERYBODY = "everybody"
"""In an owner's place, where all answers shall end: no owner has this name."""
FINISH_SECONDS = 20.0
"""After SIGTERM, answers have so long to end by themselves; then they end with what they have, and are stored."""
STORE_SECONDS = 10
"""How long storing them may take."""
ANSWER_SECONDS = 5.0
"""A replica that has not heard by then writes no such answer."""


async def end_when_asked(service: Service) -> None:
    """Let all answers of this replica end with what they have, once the word for that is in the place of states."""
    while True:
        await asyncio.sleep(LISTEN_SECONDS)
        word = service.ending_word
        try:
            if word is not None and await service.stored(service.place.is_asked_to_end, EVERYBODY, word):
                service.thread.end_all()
        except STORAGE_ERRORS as error:
            LOG.error("it cannot be heard whether answers shall end: %s", for_log(error))


class RunningAnswers:
    """The answers that this process writes, by owner and id."""

    def __init__(self, service: Service) -> None:
        """Begin without answers."""
        self._place, self._stored = service.place, service.stored
        self._has_others = service.config.replicas > 1
        self._groups: dict[tuple[str, str], RowGroup] = {}
        self._listening: asyncio.Task[None] | None = None

    @contextmanager
    def noting(self, owner: str, identifier: str, group: RowGroup) -> Generator[None]:
        """An answer is written inside of this block."""
        self._groups[owner, identifier] = group
        if self._has_others and (self._listening is None or self._listening.done()):
            self._listening = asyncio.create_task(self._listen())
        try:
            yield
        finally:
            del self._groups[owner, identifier]

    def end(self, owner: str, identifier: str) -> bool:
        """Let an answer of this process end with what it has; False where there is none of this id."""
        group = self._groups.get((owner, identifier))
        if group is not None:
            group.end()
        return group is not None

    async def end_elsewhere(self, owner: str, identifier: str) -> bool:
        """Let an answer of another replica end with what it has; False where none writes one of this id."""
        if not self._has_others:
            return False
        await self._stored(self._place.ask_to_end, owner, identifier)
        begun = time.monotonic()
        while time.monotonic() - begun < ANSWER_SECONDS:
            await asyncio.sleep(LISTEN_SECONDS)
            if not await self._stored(self._place.is_asked_to_end, owner, identifier):
                return True
        return not await self._stored(self._place.take_asked, [(owner, identifier)])

    async def _listen(self) -> None:
        """Let answers end whose end was asked for elsewhere."""
        while self._groups:
            await asyncio.sleep(LISTEN_SECONDS)
            try:
                asked = await self._stored(self._place.take_asked, list(self._groups))
            except STORAGE_ERRORS as error:
                LOG.error("it cannot be heard whether answers shall end: %s", for_log(error))
                continue
            for answer in asked:
                self.end(*answer)
