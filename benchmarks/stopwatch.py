"""Where the time of a program goes, by named calls. Knows nothing about what is called.

A call's own time is its time without that of the named calls inside it, so that the parts add up.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any


class Stopwatch:
    """Times calls of attributes that it has taken the place of.

    Attributes:
        seconds: own time of each name.
        calls: how often each was called.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self._inside: list[float] = []

    def watch(self, name: str, owner: Any, attribute: str) -> None:  # noqa: ANN401 - anything
        """Time `owner.attribute` from now on; several attributes may share a name."""
        setattr(owner, attribute, self._timed(name, getattr(owner, attribute)))

    def reset(self) -> None:
        """Forget all times."""
        self.seconds.clear()
        self.calls.clear()

    def _timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - whatever it takes
            self._inside.append(0.0)
            began = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                took = time.perf_counter() - began
                within = self._inside.pop()
                self.seconds[name] += took - within
                self.calls[name] += 1
                if self._inside:
                    self._inside[-1] += took

        return timed
