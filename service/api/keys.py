"""The keys of a service. Knows nothing about HTTP, or where they come from."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable


class ApiKeys:
    """The keys that are taken. Holds their digests only, so that no key is in a dump of it.

    Args:
        keys: in plain text; none of them opens the service to everybody.
    """

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = tuple(map(_digest, keys))

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._digests)

    def admits(self, key: str | None) -> bool:
        """Tell whether the key is taken, in a time that tells nothing about the keys."""
        if not self._digests:
            return True
        offered = _digest(key or "")
        matches = [hmac.compare_digest(offered, digest) for digest in self._digests]
        return key is not None and any(matches)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", errors="surrogateescape")).digest()
