"""Serve every kind of request for minutes, and see whether anything is left of them.

A service is started for the run, with the built-in model (or that of the `EARSHOT_*` variables) and
deadlines of two seconds. Clients on the loopback interface send good recordings in several formats,
leave in every stage, send bad input, trickle, and stop reading. Every so often all of them rest:
then descriptors, threads, children, tasks, permits, slots and rows must be what they were before,
and resident memory is noted. The exit code is 0 if the service held.

    python -m benchmarks.soak --minutes 20
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import httpx
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks import rude, vitals
from benchmarks.own import OwnService, own_service
from benchmarks.recordings import recordings
from benchmarks.traffic import Traffic
from benchmarks.vitals import Vitals
from service.api.deps import IDLE_S

ROUND_S = 20.0
SETTLE_S = 60.0
"""In which a service that rests has to be as it was."""
WARM_UP_S = 240.0
"""Of traffic that pass before memory is judged: what is made once has been made by then."""
LEAST_RESTS = 10
"""Fewer than these say nothing about how memory grows."""
MAX_SLOPE_MB_PER_MIN = 0.5
PLACES = 10
TABLE_WIDTH = 110
"""Where there is no terminal that would say how wide it is."""
SETTINGS = {
    "EARSHOT_MAX_REQUESTS": str(PLACES),
    "EARSHOT_MAX_UPLOAD_BYTES": str(rude.MAX_UPLOAD_BYTES),
    "EARSHOT_MAX_AUDIO_SECONDS": "120",
    "EARSHOT_HEADER_TIMEOUT_S": f"{rude.DEADLINE_S}",
    "EARSHOT_BODY_IDLE_TIMEOUT_S": f"{rude.DEADLINE_S}",
    "EARSHOT_BODY_TIMEOUT_S": f"{3 * rude.DEADLINE_S}",
    "EARSHOT_SEND_TIMEOUT_S": f"{rude.DEADLINE_S}",
    "EARSHOT_IDLE_CONNECTION_TIMEOUT_S": f"{rude.DEADLINE_S}",
}
console = Console()


@dataclass(slots=True)
class Soak:
    """What was seen.

    Attributes:
        before: the service at rest, before the first round.
        rests: the service at rest, after each round.
        leaks: in words, what was left after a round.
        lag_s: the lag of the event loop that 99 % of the measurements kept to.
        seconds: of traffic and rests.
    """

    before: Vitals
    rests: list[Vitals] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    lag_s: float = 0.0
    seconds: float = 0.0

    @property
    def judged(self) -> Sequence[Vitals]:
        """The rests whose memory counts; none if they are too few."""
        after_s = self.before.at_s + WARM_UP_S
        rests = [rest for rest in self.rests if rest.at_s > after_s]
        return rests if len(rests) >= LEAST_RESTS else []

    @property
    def slope_mb_per_min(self) -> float:
        """How fast memory grows."""
        return vitals.slope_mb_per_min(self.judged)


async def one_round(traffic: Traffic, clients: int, until_s: float) -> None:
    """So many clients send one request after the other until the time is over."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=traffic.url, timeout=None, limits=limits) as client:

        async def work() -> None:
            while time.monotonic() < until_s:
                await traffic.send(client)

        await asyncio.gather(*(work() for _ in range(clients)))


def at_rest(own: OwnService, client: httpx.Client, before: Vitals | None) -> Vitals:
    """Return the service's vitals as soon as they are what they were, or when it had its time.

    Before that it is left alone until it has seen that nothing is to be done, and given memory
    back.
    """
    deadline = time.monotonic() + SETTLE_S
    time.sleep(2 * IDLE_S)
    while True:
        now = vitals.look(own.pid, vitals.ask(client))
        settled = not now.beyond(before) if before else _is_still(now, own, client)
        if settled or time.monotonic() > deadline:
            return now
        time.sleep(0.25)


def _is_still(now: Vitals, own: OwnService, client: httpx.Client) -> bool:
    """Whether a second look, after connections had the time to end, sees the same."""
    time.sleep(2 * rude.DEADLINE_S)
    later = vitals.look(own.pid, vitals.ask(client))
    return not now.beyond(later) and not later.beyond(now)


def soak(own: OwnService, traffic: Traffic, minutes: float, clients: int) -> Soak:
    """Send traffic in rounds, and look at the service after each."""
    total_s = 60 * minutes
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[seen]}"))
    with (
        httpx.Client(base_url=own.url, timeout=SETTLE_S) as client,
        Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress,
    ):
        bar = progress.add_task("learning", total=total_s, seen="")
        asyncio.run(traffic.learn())
        asyncio.run(one_round(traffic, clients, time.monotonic() + min(ROUND_S, total_s)))
        forget(traffic)
        seen = Soak(at_rest(own, client, None))
        lag = vitals.lag_buckets(vitals.ask(client))
        progress.update(bar, description="soaking")
        began = time.monotonic()
        while seen.seconds < total_s:
            until_s = min(time.monotonic() + ROUND_S, began + total_s)
            asyncio.run(one_round(traffic, clients, until_s))
            rest = at_rest(own, client, seen.before)
            seen.rests.append(rest)
            seen.leaks += rest.beyond(seen.before)
            seen.seconds = time.monotonic() - began
            report = f"{traffic.outcomes.total()} requests, {rest.memory_mb:.0f} MB"
            progress.update(bar, completed=min(seen.seconds, total_s), seen=report)
        seen.lag_s = vitals.lag_at_most_s(lag, vitals.lag_buckets(vitals.ask(client)), 0.99)
    return seen


def forget(traffic: Traffic) -> None:
    """Count from here; what came as a surprise stays one."""
    traffic.outcomes.clear()


def kinds_table(traffic: Traffic) -> Table:
    """Return what was sent, and what came of it."""
    table = Table("kind", "requests", "what came of them")
    by_kind: dict[str, Counter[str]] = {}
    for (kind, outcome), count in traffic.outcomes.items():
        by_kind.setdefault(kind, Counter())[outcome] += count
    for kind, outcomes in sorted(by_kind.items()):
        came = ", ".join(f"{count} x {outcome}" for outcome, count in outcomes.most_common())
        table.add_row(kind, str(outcomes.total()), came)
    return table


def rest_table(seen: Soak) -> Table:
    """Return the service at rest: before, and at the least and the most after a round."""
    table = Table("at rest", "before", "least after", "most after")
    for name in ("memory_mb", "descriptors", "threads", "children", "tasks"):
        values = [getattr(rest, name) for rest in seen.rests]
        cells = [f"{value:.0f}" for value in (getattr(seen.before, name), min(values), max(values))]
        table.add_row(name, *cells)
    for name in vitals.HELD:
        held = [rest.held[name] for rest in seen.rests]
        table.add_row(name, *(f"{v:g}" for v in (seen.before.held[name], min(held), max(held))))
    return table


def memory_line(seen: Soak) -> str:
    """Return the memory at every rest: a slope does not tell a step from a leak."""
    return "MB at rest: " + " ".join(f"{rest.memory_mb:.1f}" for rest in seen.rests)


def verdict(seen: Soak, surprises: Counter[str], max_lag_s: float) -> list[str]:
    """Return in words why the service did not hold; nothing if it did."""
    why = [f"{count} x {what}" for what, count in surprises.items()]
    why += [f"left after a round: {count} x {what}" for what, count in Counter(seen.leaks).items()]
    if seen.slope_mb_per_min > MAX_SLOPE_MB_PER_MIN:
        why.append(f"memory grows by {seen.slope_mb_per_min:.2f} MB a minute")
    if seen.lag_s > max_lag_s:
        why.append(f"the event loop was up to {seen.lag_s:g} s late in 99 % of the measurements")
    return why


def run(
    minutes: Annotated[
        float, typer.Option(min=0.05, max=24 * 60, help="of traffic and rests")
    ] = 20.0,
    clients: Annotated[int, typer.Option(min=1, max=256, help="at once")] = 12,
    seed: Annotated[int, typer.Option(help="decides what is sent when")] = 0,
    max_lag_ms: Annotated[float, typer.Option(min=1, help="of the event loop, p99")] = 250.0,
) -> None:
    """Soak a service in traffic, and say whether it held."""
    with own_service(console, SETTINGS) as own:
        port = int(own.url.rpartition(":")[2])
        traffic = Traffic(own.url, port, recordings(), random.Random(seed))
        seen = soak(own, traffic, minutes, clients)
    if not console.is_terminal:
        console.width = TABLE_WIDTH
    console.print(kinds_table(traffic), rest_table(seen))
    console.print(memory_line(seen))
    requests = traffic.outcomes.total()
    grows = f"{seen.slope_mb_per_min:+.3f} MB a minute" if seen.judged else "too soon to say"
    console.print(
        f"{seen.seconds / 60:.1f} minutes, {requests} requests of {clients} clients, "
        f"{len(seen.rests)} rests; memory: {grows} (at most {MAX_SLOPE_MB_PER_MIN}); "
        f"loop lag p99 <= {1000 * seen.lag_s:g} ms (at most {max_lag_ms:g})",
        markup=False,
    )
    why = verdict(seen, traffic.surprises, max_lag_ms / 1000)
    for reason in why:
        console.print(reason, style="red", markup=False)
    console.print("NOT held" if why else "held")
    raise typer.Exit(1 if why else 0)


if __name__ == "__main__":
    typer.run(run)
