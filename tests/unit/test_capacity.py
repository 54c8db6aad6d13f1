"""Slots follow the memory that is free, unless somebody asked for a number of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.capacity import choose_slots, free_host_bytes

MB = 10**6


def nbytes(windows: int, rows: int) -> int:
    """18 MB a window and 5 MB a hypothesis."""
    return (18 * windows + 5 * rows) * MB


def chosen(free_mb: int | None, windows: int = 0, rows: int = 0) -> tuple[int, int]:
    free = None if free_mb is None else free_mb * MB
    found = choose_slots(windows, rows, most=16, free=free, nbytes=nbytes)
    return found.windows, found.rows


@pytest.mark.parametrize(
    ("free_mb", "expected"),
    [
        (10_000, (16, 24)),
        (816, (16, 24)),  # 16 windows of 18 MB and 24 rows of 5 MB are half of it
        (815, (15, 22)),
        (306, (6, 9)),
        (305, (5, 8)),
        (224, (4, 8)),
        (223, (3, 8)),  # rows for a beam search, however few the windows
        (20, (1, 8)),
        (0, (1, 8)),
        (None, (16, 24)),
    ],
)
def test_as_many_slots_as_fit_into_half_of_what_is_free(
    free_mb: int | None, expected: tuple[int, int]
) -> None:
    assert chosen(free_mb) == expected


def test_numbers_that_were_asked_for_win() -> None:
    assert chosen(20, windows=40) == (40, 60)
    assert chosen(20, windows=40, rows=50) == (40, 50)
    assert chosen(None, windows=1) == (1, 8)


def test_rows_that_were_asked_for_leave_less_for_windows() -> None:
    assert chosen(896, rows=64) == (7, 64)


def test_reason_has_the_arithmetic() -> None:
    found = choose_slots(0, 0, most=16, free=306 * MB, nbytes=nbytes)
    assert found.reason == (
        "6 window slots and 9 decoder rows take 153 MB: as many as fit into 50% of the 306 MB "
        "that are free"
    )
    asked = choose_slots(40, 0, most=16, free=300 * MB, nbytes=nbytes)
    assert asked.reason.endswith("take 1,020 MB: as asked for")


def machine(folder: Path, available_kb: int) -> Path:
    path = folder / "meminfo"
    path.write_text(f"MemTotal: 99999999 kB\nMemAvailable:   {available_kb} kB\nHugePages: 0\n")
    return path


def container(folder: Path, limit: str, current: int, inactive_file: int) -> Path:
    path = folder / "cgroup"
    path.mkdir(exist_ok=True)
    (path / "memory.max").write_text(f"{limit}\n")
    (path / "memory.current").write_text(f"{current}\n")
    (path / "memory.stat").write_text(f"anon 1\ninactive_file {inactive_file}\nslab 2\n")
    return path


def test_free_memory_is_the_machines_or_what_is_left_to_the_container(tmp_path: Path) -> None:
    meminfo, none = machine(tmp_path, 2048), tmp_path / "none"
    assert free_host_bytes(meminfo, none) == 2048 << 10
    assert free_host_bytes(meminfo, container(tmp_path, "max", 5, 0)) == 2048 << 10
    assert free_host_bytes(meminfo, container(tmp_path, "1000000", 300_000, 50_000)) == 750_000
    assert free_host_bytes(meminfo, container(tmp_path, "1000", 2000, 0)) == 0
    assert free_host_bytes(none, none) is None


def test_memory_that_cannot_be_read_is_not_known(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    for content in ("", "MemTotal: 5 kB\n", "MemAvailable:\n", "MemAvailable: many kB\n"):
        meminfo.write_text(content)
        assert free_host_bytes(meminfo, tmp_path / "none") is None
