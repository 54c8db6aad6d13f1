"""How long a request may take: what its client asks for, within what the server allows.

Knows nothing about what a request does.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.datastructures import Headers

from service.errors import DeadlineExceeded, InvalidRequest

HEADER = "X-Request-Timeout"
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_SHOWN = 40
"""Characters of a wrong value that an error repeats."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """When a request has to be through.

    Attributes:
        timeout_s: seconds from its arrival.
        at: the event loop's time.
    """

    timeout_s: float
    at: float

    @asynccontextmanager
    async def enforced(self) -> AsyncIterator[None]:
        """Cancel the block when the time is over.

        Raises:
            DeadlineExceeded: if it was, or had been over before.
        """
        if asyncio.get_running_loop().time() >= self.at:
            raise self._exceeded()
        timeout = asyncio.timeout_at(self.at)
        try:
            async with timeout:
                yield
        except TimeoutError:
            if timeout.expired():
                raise self._exceeded() from None
            raise

    def _exceeded(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"the request was not through within its deadline of {self.timeout_s:g} s"
        )


def deadline_of(headers: Headers, max_timeout_s: float, arrived_at: float) -> Deadline:
    """Return the deadline of a request: `X-Request-Timeout` seconds, by default the longest.

    Args:
        headers: of the request.
        max_timeout_s: the longest that the server allows.
        arrived_at: `time.perf_counter()` of its arrival.

    Raises:
        InvalidRequest: if the header is no number of seconds in (0, max_timeout_s], or there twice.
    """
    values = headers.getlist(HEADER)
    timeout_s = max_timeout_s
    if values:
        value = values[0].strip()
        timeout_s = float(value) if _SECONDS.fullmatch(value) else 0.0
        if len(values) > 1:
            raise InvalidRequest(f"{HEADER} is given more than once", param=HEADER)
        if not 0 < timeout_s <= max_timeout_s:
            raise InvalidRequest(
                f"{HEADER} is {value[:_SHOWN]!r}, it has to be a number of seconds above 0 and at "
                f"most {max_timeout_s:g}",
                param=HEADER,
            )
    elapsed_s = time.perf_counter() - arrived_at
    return Deadline(timeout_s, asyncio.get_running_loop().time() + timeout_s - elapsed_s)
