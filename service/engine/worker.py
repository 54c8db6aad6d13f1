"""Takes turns of the engine's core for as long as there is work: messages in, events out.

It takes everything that has arrived, takes one turn, and tells all of it by one event. When there
is nothing to do it sleeps on its inbox; there is no timer.

Knows nothing about torch, HTTP or audio formats, nor where it runs.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable

from service.engine.core import EngineCore
from service.engine.messages import (
    Close,
    Ended,
    Event,
    Message,
    Open,
    Ready,
    Refused,
    Rested,
    Stop,
    Submit,
    Tidy,
    Turned,
    Usage,
)
from service.errors import DecodingFailed

logger = logging.getLogger(__name__)


class EngineWorker:
    """Runs an `EngineCore` on the thread that calls `run`.

    Args:
        core: touched by that thread only.
        inbox: where messages arrive.
        tell: takes events; called on that thread.
        tidy: gives memory back that is free, where nobody else does.
    """

    def __init__(
        self,
        core: EngineCore,
        inbox: queue.SimpleQueue[Message],
        tell: Callable[[Event], None],
        tidy: Callable[[], object] = lambda: None,
    ) -> None:
        self._core = core
        self._inbox = inbox
        self._tell = tell
        self._tidy = tidy
        self._told = Usage()
        self._n_taken = 0

    def run(self) -> None:
        """Warm up, then take turns until told to stop or until something fails for good."""
        failure: str | None = None
        try:
            with self._core.runner.on_thread():
                self._core.warm_up()
                self._tell(Ready())
                while self._take():
                    self._turn()
        except BaseException as error:  # told to everyone who waits
            logger.critical("the engine has failed", exc_info=error)
            failure = f"{type(error).__name__}: {error}"
        self._tell(Ended(failure))

    def _take(self) -> bool:
        """Take what has arrived, waiting if there is no work -> False when told to stop."""
        scheduler = self._core.scheduler
        while True:
            if self._inbox.empty():
                if scheduler.has_work:
                    return True
                self._rest()
            message = self._inbox.get()
            self._n_taken += 1
            if isinstance(message, Stop):
                return False
            if isinstance(message, Open):
                scheduler.open(message.window_id, message.window_input, message.rank)
            elif isinstance(message, Close):
                scheduler.close(message.window_id)
            elif isinstance(message, Tidy):
                self._tidy()
            else:
                self._submit(message)

    def _submit(self, message: Submit) -> None:
        try:
            self._core.scheduler.submit(message.sequence_id, message.window_id, message.task)
        except DecodingFailed as error:
            self._tell(Refused(message.sequence_id, error))

    def _turn(self) -> None:
        """Take one turn and tell of it."""
        began_at = time.monotonic()
        turn = self._core.turn()
        self._told = self._usage()
        self._tell(Turned(turn, began_at, time.monotonic(), self._told))

    def _rest(self) -> None:
        """Tell what is in use, unless it has been told."""
        usage = self._usage()
        if usage != self._told:
            self._told = usage
            self._tell(Rested(usage))

    def _usage(self) -> Usage:
        scheduler = self._core.scheduler
        return Usage(
            rows_used=scheduler.n_rows_used,
            slots_used=sum(window is not None for window in scheduler.slots),
            waiting=len(scheduler.waiting),
            taken=self._n_taken,
            has_work=scheduler.has_work,
        )
