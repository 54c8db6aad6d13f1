from __future__ import annotations

import asyncio

from service.api.idle import Idle


class Notice:
    """Counts how often idleness was noticed."""

    def __init__(self) -> None:
        self._times = 0
        self._noticed = asyncio.Event()

    def __call__(self) -> None:
        self._times += 1
        self._noticed.set()

    def times(self) -> int:
        return self._times

    async def wait(self) -> None:
        await asyncio.wait_for(self._noticed.wait(), 30)


def test_it_is_noticed_once_when_the_last_one_has_left() -> None:
    async def main() -> None:
        notice = Notice()
        idle = Idle(notice, after_s=0.0)
        with idle:
            with idle:
                pass
            await asyncio.sleep(0.01)
            assert notice.times() == 0, "one is still inside"
        await notice.wait()
        await asyncio.sleep(0.01)
        assert notice.times() == 1

    asyncio.run(main())


def test_who_comes_back_in_time_is_not_disturbed() -> None:
    async def main() -> None:
        notice = Notice()
        idle = Idle(notice, after_s=0.0)
        with idle:
            pass
        with idle:
            await asyncio.sleep(0.01)
            assert notice.times() == 0
        await notice.wait()
        assert notice.times() == 1

    asyncio.run(main())
