"""Passages of one recording, decoded side by side and told one after another.

At most the request's fair share of the engine is taken. Passages that have ended wait for those
before them to be told; how many is bounded, so a listener that does not listen stops the decoding.
Knows nothing about audio or text.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from service.engine.types import SessionClosed
from service.transcription.events import LanguageDetected
from service.transcription.passage import Passage, PassageEvent

Clip = tuple[int, int]
T = TypeVar("T")
_Told = asyncio.Queue[PassageEvent | None]
_AHEAD = 2
"""Passages that have begun and are not told yet, for each that may be decoded at once."""


class SideBySide:
    """Runs passages. To be iterated once; `cancel` ends all.

    Args:
        next_clip: returns where the next one lies, in order; None after the last.
        passage: makes it, in a language.
        share: how many may be decoded at once, now.
        language: of all of them; None to let the first one that has speech say it. Until it has,
            one is decoded after the other.
        each_its_own: let each passage find out its language.
    """

    def __init__(
        self,
        next_clip: Callable[[], Awaitable[Clip | None]],
        passage: Callable[[Clip, str | None], Passage],
        share: Callable[[], int],
        language: str | None,
        *,
        each_its_own: bool,
    ) -> None:
        self._next_clip = next_clip
        self._passage = passage
        self._share = share
        self._language = language
        self._knows_language = each_its_own or language is not None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._begun: asyncio.Queue[tuple[_Told, asyncio.Task[Passage]] | None] = asyncio.Queue()
        self._changed = asyncio.Event()
        self._n_decoding = self._n_begun = 0

    async def events(self) -> AsyncGenerator[PassageEvent | Passage, None]:
        """Yield the events of each passage, and then the passage, in order.

        Those of the first that has not ended come as they happen.

        Raises:
            SessionClosed: if this is cancelled meanwhile.
            ServiceError: as the passages.
        """
        beginning = self._run(self._begin_all())
        try:
            while (one := await self._begun.get()) is not None:
                told, decoding = one
                while (event := await told.get()) is not None:
                    yield event
                passage = await _outcome(decoding)
                self._n_begun -= 1
                self._changed.set()
                yield passage
            await _outcome(beginning)
        finally:
            self.cancel()

    def cancel(self) -> None:
        """End everything that still runs. May be called again."""
        for task in self._tasks:
            task.cancel()

    def _run(self, work: Coroutine[None, None, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits for it is told, and nobody waits after a failure

    async def _begin_all(self) -> None:
        """Begin one passage after the other, each as soon as there is room."""
        try:
            while (clip := await self._next_clip()) is not None:
                while not self._has_room():
                    self._changed.clear()
                    await self._changed.wait()
                told: _Told = asyncio.Queue()
                self._n_decoding += 1
                self._n_begun += 1
                decoding = self._run(self._decode(self._passage(clip, self._language), told))
                self._begun.put_nowait((told, decoding))
        finally:
            self._begun.put_nowait(None)

    async def _decode(self, passage: Passage, told: _Told) -> Passage:
        """Decode a passage to its end, and tell what happens; None is the end, however it comes."""
        try:
            async with aclosing(passage.events()) as events:
                async for event in events:
                    told.put_nowait(event)
                    if isinstance(event, LanguageDetected) and not self._knows_language:
                        self._language, self._knows_language = event.language, True
                        self._changed.set()
            return passage
        finally:
            told.put_nowait(None)
            self._n_decoding -= 1
            self._changed.set()

    def _has_room(self) -> bool:
        """Whether one more passage may be decoded."""
        share = self._share() if self._knows_language else 1
        return self._n_decoding < share and self._n_begun < _AHEAD * share


async def _outcome(task: asyncio.Task[T]) -> T:
    """Return what a task came to. One that was cancelled does not cancel whoever waits for it."""
    await asyncio.wait([task])
    if task.cancelled():
        raise SessionClosed("the transcription is closed")
    return task.result()
