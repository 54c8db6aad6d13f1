"""How many windows a device has memory for, and the arithmetic behind it in words.

Knows nothing about models but the bytes that their keys and values take.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MOST = {"cpu": 16, "cuda": 64}
"""Window slots that are chosen at most, by the kind of device: more gain nothing there."""
SHARE = 0.5
"""Of the memory that is free once the weights are loaded. The rest is for recordings, activations
and whoever else is there."""
LEAST_ROWS = 8
"""A beam search of usual width fits, however few windows there are."""
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Slots:
    """What the decoder's memory holds.

    Attributes:
        windows: cross slots, one a window.
        rows: self rows, one a hypothesis.
        reason: how these numbers came about, for the log.
    """

    windows: int
    rows: int
    reason: str


def choose_slots(
    windows: int, rows: int, *, most: int, free: int | None, nbytes: Callable[[int, int], int]
) -> Slots:
    """Return slots and rows as they were asked for, or as many as there is memory for.

    Args:
        windows: that were asked for; 0 to choose.
        rows: that were asked for; 0 is half as many again as windows, at least `LEAST_ROWS`.
        most: windows to choose at most. One at least is chosen.
        free: bytes, or None if nobody knows.
        nbytes: bytes of keys and values, given windows and rows.
    """

    def with_rows(n_windows: int) -> tuple[int, int]:
        return n_windows, rows or max(LEAST_ROWS, n_windows + n_windows // 2)

    if windows:
        how = "as asked for"
    elif free is None:
        windows, how = most, "the most that are chosen; how much memory is free is not known"
    else:
        budget = int(SHARE * free)
        choices = range(most, 0, -1)
        windows = next((n for n in choices if nbytes(*with_rows(n)) <= budget), 1)
        how = "the most that are chosen" if windows == most else "as many as fit"
        how += f" into {SHARE:.0%} of the {_mb(free)} that are free"
    windows, rows = with_rows(windows)
    kept = _mb(nbytes(windows, rows))
    text = f"{windows} window slots and {rows} decoder rows take {kept}: {how}"
    return Slots(windows, rows, text)


def free_host_bytes(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int | None:
    """Return the memory that this process may still take, or None if the system does not say.

    The machine's, or in a container what is left of its limit if that is less. What the kernel
    keeps of files counts as free: it gives that up.
    """
    known = [n for n in (_machine(meminfo), _container(cgroup)) if n is not None]
    return min(known, default=None)


def _machine(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) << 10
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _container(cgroup: Path) -> int | None:
    """What is left of a container's limit; `memory.max` is "max" without one."""
    try:
        limit, used = (
            int((cgroup / name).read_text(encoding="ascii"))
            for name in ("memory.max", "memory.current")
        )
        lines = (cgroup / "memory.stat").read_text(encoding="ascii").splitlines()
        files = int(dict(line.split() for line in lines)["inactive_file"])
    except (OSError, ValueError, KeyError):
        return None
    return max(0, limit - used + files)


def _mb(nbytes: int) -> str:
    return f"{nbytes / 1e6:,.0f} MB"
