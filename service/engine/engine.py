"""The boundary between the event loop and the engine thread: one queue in, one callback out.

The engine thread owns the core. It takes everything that has arrived, takes one step, and hands all
of the step's tokens to the loop by one `call_soon_threadsafe`. When there is nothing to do it
sleeps on the inbox; there is no timer. This is the only module with `threading` and `queue`.

Knows nothing about torch, HTTP or audio formats.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable

from service.engine.core import EngineCore
from service.engine.gauges import EngineGauges, Snapshot
from service.engine.permits import Permits
from service.engine.session import Session, TokenStream, WindowLease
from service.engine.state import EngineConfig, EngineState
from service.engine.types import (
    Close,
    Finish,
    Open,
    Step,
    Stop,
    Submit,
    Task,
    TokenStep,
    WindowInput,
)
from service.errors import (
    DecodingFailed,
    EngineDead,
    EngineDraining,
    EngineStarting,
    ServiceError,
)
from service.metrics import Metrics

__all__ = ["Engine", "EngineConfig", "EngineState", "Session", "TokenStream", "WindowLease"]

logger = logging.getLogger(__name__)

_JOIN_S = 5.0


class Engine:
    """Runs an `EngineCore` on a thread of its own, for one event loop.

    Args:
        core: touched by the engine thread only from `start` on.
        config: limits.
        metrics: where it counts.
        on_dead: called on the loop once if the engine fails for good.
    """

    def __init__(
        self,
        core: EngineCore,
        *,
        config: EngineConfig,
        metrics: Metrics | None = None,
        on_dead: Callable[[BaseException], None] | None = None,
    ) -> None:
        self.state = EngineState.STARTING
        self._core = core
        self._on_dead = on_dead
        metrics = metrics or Metrics()
        self._gauges = EngineGauges(metrics, core.scheduler.config)
        self._permits = Permits(config.max_requests, core.scheduler.config.at_once, metrics)
        self._inbox: queue.SimpleQueue[Open | Submit | Close | Stop] = queue.SimpleQueue()
        self._ids = itertools.count(1)
        self._streams: dict[int, tuple[Session, TokenStream]] = {}
        self._owners: dict[int, Session] = {}
        self._failure: BaseException | None = None
        self._snapshot = Snapshot()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._started = asyncio.Event()
        self._finished = asyncio.Event()

    # ------------------------------------------------------------------ the loop's side

    def start(self) -> None:
        """Start the thread, which warms up first; call it on the event loop that will use it."""
        if self._thread is not None:
            raise RuntimeError("the engine has been started already")
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    async def until_ready(self) -> None:
        """Return when the engine is warm. Who is cancelled meanwhile leaves no thread behind.

        Raises:
            EngineDead: if it failed to start.
        """
        try:
            await self._started.wait()
        except asyncio.CancelledError:
            await self.stop(0.0)
            raise
        if self.state is EngineState.DEAD:
            raise self._dead()

    def session(self) -> Session:
        """Return a permit for one request, now. Raises as `require_place` does."""
        self.require_place()
        session = Session(self, time.monotonic())
        self._permits.add(session)
        return session

    def require_place(self) -> None:
        """Do nothing if there is a permit to be had now.

        Raises:
            EngineStarting, EngineDraining, EngineDead: by the state.
            EngineBusy: if `max_requests` hold a permit; says when to come back.
        """
        if self.state is EngineState.DEAD:
            raise self._dead()
        if self.state is EngineState.DRAINING:
            raise EngineDraining("the service is shutting down and takes no new work")
        if self.state is EngineState.STARTING:
            raise EngineStarting("the model is not loaded and warm yet")
        self._permits.check()

    def retry_after_s(self) -> float:
        """Return when one who finds no place should come back."""
        return self._permits.retry_after_s()

    def drain(self) -> None:
        """Take no new sessions; those that have a permit go on to their end."""
        if self.state in {EngineState.STARTING, EngineState.READY}:
            self.state = EngineState.DRAINING

    async def stop(self, grace_s: float) -> None:
        """Drain, wait for the sessions for `grace_s` at most, fail the rest, end the thread."""
        self.drain()
        if self._thread is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._permits.vacant.wait()
        self._fail_streams(EngineDraining("the service has shut down"))
        self._inbox.put(Stop())
        await self._finished.wait()
        self._thread.join(_JOIN_S)

    def stats(self) -> dict[str, int | float | str | None]:
        """Return the state in numbers, for the health page."""
        snapshot, config = self._snapshot, self._core.scheduler.config
        began = snapshot.step_began_at
        return {
            "state": str(self.state),
            "requests": len(self._permits),
            "max_requests": self._permits.limit,
            "windows_waiting": snapshot.waiting,
            "window_slots_used": snapshot.slots_used,
            "window_slots": config.windows,
            "decoder_rows_used": snapshot.rows_used,
            "decoder_rows": config.rows,
            "steps": snapshot.steps,
            "step_running_s": None if began is None else round(time.monotonic() - began, 3),
        }

    # What sessions call (`Port`).

    def open_window(self, session: Session, window_input: WindowInput) -> int:
        """Register a window and return its id."""
        window_id = next(self._ids)
        rank = session.n_windows
        self._owners[window_id] = session
        queued_at = session.queued_at if rank == 0 else None
        self._inbox.put(Open(window_id, window_input, rank, queued_at))
        return window_id

    def submit(self, window_id: int, task: Task) -> tuple[int, TokenStream]:
        """Start to do something with a window -> the sequence's id and its steps.

        Raises:
            EngineDead, EngineDraining: if the engine has failed or stopped.
        """
        if self.state is EngineState.DEAD:
            raise self._dead()
        if self._finished.is_set():
            raise EngineDraining("the service has shut down")
        sequence_id, stream = next(self._ids), TokenStream()
        self._streams[sequence_id] = (self._owners[window_id], stream)
        self._inbox.put(Submit(sequence_id, window_id, task))
        return sequence_id, stream

    def forget(self, sequence_id: int) -> None:
        """Deliver nothing more to a sequence's stream."""
        self._streams.pop(sequence_id, None)

    def close_window(self, window_id: int) -> None:
        """Give the window's slot and row back before the next step."""
        self._owners.pop(window_id, None)
        self._inbox.put(Close(window_id))

    def leave(self, session: Session) -> None:
        """Give the permit back."""
        self._permits.remove(session)

    def fair_share(self, width: int) -> int:
        """Return how many windows of `width` hypotheses one request may decode at once, now."""
        return self._core.scheduler.config.fair_share(len(self._permits), width)

    def _dead(self) -> EngineDead:
        return EngineDead(f"the engine has failed ({type(self._failure).__name__})")

    # What the thread calls on the loop.

    def _become_ready(self) -> None:
        if self.state is EngineState.STARTING:
            self.state = EngineState.READY
        self._started.set()

    def _deliver(self, began: list[int], steps: list[tuple[int, Step]], began_at: float) -> None:
        """Hand the tokens of the turn that began at `began_at` to their streams.

        `began` are the sequences that took their first step in it: one of several hypotheses has
        no token to show for it yet.
        """
        for sequence_id in began:
            owner = self._streams.get(sequence_id)
            if owner is not None and owner[0].is_waiting:
                owner[0].began_at = began_at
                self._permits.count()
        for sequence_id, step in steps:
            owner = self._streams.get(sequence_id)
            if owner is None:
                continue  # cancelled while the step ran
            owner[1].feed(step)
            if step.finish is not None:
                del self._streams[sequence_id]

    def _end(self, failure: BaseException | None) -> None:
        """Note that the thread has ended, and why."""
        self._finished.set()
        self._started.set()
        if failure is None:
            self._fail_streams(EngineDraining("the service has shut down"))
            return
        self._failure = failure
        self.state = EngineState.DEAD
        self._fail_streams(self._dead())
        if self._on_dead is not None:
            self._on_dead(failure)

    def _fail_streams(self, error: ServiceError) -> None:
        streams, self._streams = self._streams, {}
        for _, stream in streams.values():
            stream.fail(error)

    # ------------------------------------------------------------------ the engine thread

    def _run(self) -> None:
        """Warm up, then step until told to stop or until something fails for good."""
        failure: BaseException | None = None
        try:
            with self._core.runner.on_thread():
                self._core.warm_up()
                self._post(self._become_ready)
                while self._take():
                    self._turn()
        except BaseException as error:  # reported to everyone who waits
            logger.critical("the engine has failed", exc_info=error)
            failure = error
        self._post(self._end, failure)

    def _take(self) -> bool:
        """Take what has arrived, waiting if there is no work -> False when told to stop."""
        scheduler = self._core.scheduler
        while True:
            if self._inbox.empty():
                self._snapshot = self._gauges.publish(scheduler)
                if scheduler.has_work:
                    return True
            message = self._inbox.get()
            if isinstance(message, Stop):
                return False
            if isinstance(message, Open):
                scheduler.open(message.window_id, message.window_input, message.rank)
                self._gauges.opened(message.window_id, message.queued_at)
            elif isinstance(message, Close):
                scheduler.close(message.window_id)
                self._gauges.closed(message.window_id)
            else:
                self._submit(message)

    def _submit(self, message: Submit) -> None:
        try:
            self._core.scheduler.submit(message.sequence_id, message.window_id, message.task)
        except DecodingFailed as error:
            step = TokenStep(-1, float("nan"), finish=Finish.ERROR, error=error)
            began = [message.sequence_id]
            self._post(self._deliver, began, [(message.sequence_id, step)], time.monotonic())

    def _turn(self) -> None:
        """Take one step and hand its tokens over."""
        began_at = time.monotonic()
        self._snapshot = self._gauges.step_begins()
        turn = self._core.turn()
        self._gauges.step_ends(turn)
        self._post(self._deliver, turn.began, turn.steps, began_at)

    def _post(self, callback: Callable[..., None], *args: object) -> None:
        """Run a callback on the loop; if that is closed, nobody is left to tell."""
        if self._loop is not None and not self._loop.is_closed():
            with contextlib.suppress(RuntimeError):  # it was closed just now
                self._loop.call_soon_threadsafe(callback, *args)
