"""The event loop's side of the engine: who may use it, what is asked of it, and what it answers.

The core takes its turns on a thread or in a process of its own (`hosts.py`, `worker.py`). Messages
go there, and one event comes back for each turn, with all of its tokens.

Knows nothing about torch, HTTP or audio formats.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable

from service.engine.gauges import EngineGauges
from service.engine.hosts import Host
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
from service.engine.permits import Permits
from service.engine.session import Session, TokenStream, WindowLease
from service.engine.state import EngineConfig, EngineState
from service.engine.types import Finish, Step, Task, TokenStep, WindowInput
from service.errors import (
    EngineDead,
    EngineDraining,
    EngineStarting,
    ServiceError,
)
from service.metrics import Metrics

__all__ = ["Engine", "EngineConfig", "EngineState", "Session", "TokenStream", "WindowLease"]

LAST_TURN_S = 5.0
"""For the turn that is running when the engine is told to stop."""


class Engine:
    """Lets the requests of one event loop use a core that runs elsewhere.

    Args:
        host: runs it.
        config: limits.
        metrics: where it counts.
        on_dead: called on the loop once if the engine fails for good, with what it failed of.
    """

    def __init__(
        self,
        host: Host,
        *,
        config: EngineConfig,
        metrics: Metrics | None = None,
        on_dead: Callable[[str], None] | None = None,
    ) -> None:
        self.state = EngineState.STARTING
        self._host = host
        self._on_dead = on_dead
        metrics = metrics or Metrics()
        self._gauges = EngineGauges(metrics, host.config)
        self._permits = Permits(config.max_requests, host.config.at_once, metrics)
        self._ids = itertools.count(1)
        self._n_sent = 0
        self._busy_since: float | None = None
        self._streams: dict[int, tuple[Session, TokenStream]] = {}
        self._owners: dict[int, Session] = {}
        self._failure = ""
        self._has_started = False
        self._started = asyncio.Event()
        self._finished = asyncio.Event()

    def start(self) -> None:
        """Start, and warm the model up; call it on the event loop that will use it."""
        self._host.start(self._hear)
        self._has_started = True

    async def until_ready(self) -> None:
        """Return when the engine is warm. Who is cancelled meanwhile leaves nothing behind.

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

    @property
    def is_full(self) -> bool:
        """Whether it takes work, but has no permit left."""
        return self.state is EngineState.READY and self._permits.are_all_taken

    def retry_after_s(self) -> float:
        """Return when one who finds no place should come back."""
        return self._permits.retry_after_s()

    def drain(self) -> None:
        """Take no new sessions; those that have a permit go on to their end."""
        if self.state in {EngineState.STARTING, EngineState.READY}:
            self.state = EngineState.DRAINING

    async def stop(self, grace_s: float) -> None:
        """Drain, wait for the sessions for `grace_s` at most, fail the rest, end it."""
        self.drain()
        if not self._has_started:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._permits.vacant.wait()
        self._fail_streams(EngineDraining("the service has shut down"))
        self._send(Stop())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_TURN_S):
                await self._finished.wait()
        self._host.join()
        self._finished.set()

    def tidy(self) -> None:
        """Let memory that is free go back to the system, where the engine has its own."""
        self._send(Tidy())

    def stats(self) -> dict[str, int | float | str | None]:
        """Return the state in numbers, for the health page."""
        usage, config, since = self._gauges.usage, self._host.config, self._busy_since
        return {
            "state": str(self.state),
            "requests": len(self._permits),
            "max_requests": self._permits.limit,
            "windows_waiting": usage.waiting,
            "window_slots_used": usage.slots_used,
            "window_slots": config.windows,
            "decoder_rows_used": usage.rows_used,
            "decoder_rows": config.rows,
            "steps": self._gauges.steps,
            "step_running_s": None if since is None else round(time.monotonic() - since, 3),
        }

    # What sessions call (`Port`).

    def open_window(self, session: Session, window_input: WindowInput) -> int:
        """Register a window and return its id."""
        window_id = next(self._ids)
        rank = session.n_windows
        self._owners[window_id] = session
        if rank == 0 and session.queued_at is not None:
            self._gauges.opened(window_id, session.queued_at)
        self._send(Open(window_id, window_input, rank))
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
        self._send(Submit(sequence_id, window_id, task))
        return sequence_id, stream

    def forget(self, sequence_id: int) -> None:
        """Deliver nothing more to a sequence's stream."""
        self._streams.pop(sequence_id, None)

    def close_window(self, window_id: int) -> None:
        """Give the window's slot and row back before the next step."""
        self._owners.pop(window_id, None)
        self._gauges.closed(window_id)
        self._send(Close(window_id))

    def leave(self, session: Session) -> None:
        """Give the permit back."""
        self._permits.remove(session)

    def fair_share(self, width: int) -> int:
        """Return how many windows of `width` hypotheses one request may decode at once, now."""
        return self._host.config.fair_share(len(self._permits), width)

    def _send(self, message: Message) -> None:
        self._n_sent += 1
        if self._busy_since is None:
            self._busy_since = time.monotonic()
        self._host.send(message)

    def _dead(self) -> EngineDead:
        return EngineDead(f"the engine has failed ({self._failure.partition(':')[0]})")

    # What the host tells.

    def _hear(self, event: Event) -> None:
        if isinstance(event, Turned):
            self._gauges.count(event)
            self._note_work(event.usage, event.ended_at)
            self._deliver(event.turn.began, event.turn.steps, event.began_at)
        elif isinstance(event, Rested):
            self._gauges.use(event.usage)
            self._note_work(event.usage, time.monotonic())
        elif isinstance(event, Refused):
            step = TokenStep(-1, float("nan"), finish=Finish.ERROR, error=event.error)
            steps: list[tuple[int, Step]] = [(event.sequence_id, step)]
            self._deliver([event.sequence_id], steps, time.monotonic())
        elif isinstance(event, Ready):
            if self.state is EngineState.STARTING:
                self.state = EngineState.READY
            self._started.set()
        else:
            self._end(event)

    def _note_work(self, usage: Usage, now: float) -> None:
        """Note since when there is something to do that no turn has been told of yet."""
        has_work = usage.has_work or usage.taken < self._n_sent
        self._busy_since = now if has_work else None

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

    def _end(self, event: Ended) -> None:
        """Note that nothing more will come, and why."""
        self._finished.set()
        self._started.set()
        self._busy_since = None
        if event.failure is None:
            self._fail_streams(EngineDraining("the service has shut down"))
            return
        self._failure = event.failure
        self.state = EngineState.DEAD
        self._fail_streams(self._dead())
        if self._on_dead is not None:
            self._on_dead(event.failure)

    def _fail_streams(self, error: ServiceError) -> None:
        streams, self._streams = self._streams, {}
        for _, stream in streams.values():
            stream.fail(error)
