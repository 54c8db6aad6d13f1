"""Refuses new work while there is no place for it, before the framework has looked at it.

Under overload there are many refusals for each answer, and what they cost is taken from those who
were admitted: a task, an ASGI cycle, routing and dependencies are nearly all of that. So the want
of a place comes before whatever else is wrong with a request, but for its key. Who comes between
this check and its route is refused there, by the same error.

Knows nothing about what is asked for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from fastapi.security.utils import get_authorization_scheme_param
from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.deps import Services
from service.api.errors import REFUSAL, error_response
from service.api.record import REQUEST_ID, RefusalTally, request_id_of
from service.errors import EngineBusy, Unavailable

_REQUEST_ID = REQUEST_ID.encode()

CROWD_S = 0.02
"""Who is refused within so long of another is one of a crowd."""


class Places:
    """Knows whether there is a place for a request.

    Args:
        services: whose engine has places or has not.
        routes: that take a place; POST only.

    Attributes:
        services: as given.
        routes: by their paths.
    """

    def __init__(self, services: Services, routes: Iterable[BaseRoute]) -> None:
        self.services = services
        self.routes = {route.path: route for route in routes if isinstance(route, Route)}

    def refusal(self, authorization: str | None) -> Unavailable | None:
        """Return why there is no place. Who has no key is not told, but that a key is needed."""
        try:
            self.services.require_serving().engine.require_place()
        except Unavailable as error:
            # Its traceback would keep the frames that hold it, and what has arrived, in a circle.
            return error.with_traceback(None) if self._has_key(authorization) else None
        return None

    def _has_key(self, authorization: str | None) -> bool:
        scheme, key = get_authorization_scheme_param(authorization)
        return self.services.config.api_keys.admits(key if scheme.lower() == "bearer" else None)


class TurnAway:
    """Wraps the routes, as ASGI.

    Args:
        app: what to wrap.
        places: of the routes that it refuses; others are let through.
    """

    def __init__(self, app: ASGIApp, places: Places) -> None:
        self._app = app
        self._places = places

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request for which there is no place; let every other through."""
        error = self._refusal(scope)
        if error is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = self._places.routes[scope["path"]]
        scope["state"][REFUSAL] = error
        await error_response(error)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Unavailable | None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return None
        if scope["path"] not in self._places.routes:
            return None
        return self._places.refusal(Headers(scope=scope).get("authorization"))


class Refusal(NamedTuple):
    """An answer in one piece.

    Attributes:
        status: of HTTP.
        lines: its headers as they are sent; the length of the body is among them.
        body: of that length.
    """

    status: int
    lines: bytes
    body: bytes


def as_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return headers as they are sent."""
    return b"".join(b"%s: %s\r\n" % header for header in headers)


class Door:
    """Refuses at the head of a request, before there is anything of it but that.

    For the usual client, whose body has a length that can be passed over, on a connection that is
    kept. Whose body has to be drained or waited for, and whoever asks from another site's page, is
    refused by the app, in the same words.

    Args:
        places: of the routes that it refuses.
    """

    def __init__(self, places: Places) -> None:
        self._places = places
        self._paths = {path.encode(): path for path in places.routes}
        self._refused_at = -math.inf
        self._tallies: dict[str, RefusalTally] = {}
        self._said: tuple[str, float] | None = None
        self._answer = Refusal(0, b"", b"")

    def __call__(
        self, method: bytes, target: bytes, headers: Sequence[tuple[bytes, bytes]]
    ) -> Refusal | None:
        """Return the answer to a request that is refused now; None for the app to answer.

        Args:
            method: of the request.
            target: path and query, as they came.
            headers: names in small letters, and values.
        """
        path = self._paths.get(target.partition(b"?")[0])
        if path is None or method != b"POST":
            return None
        offered = dict(reversed(headers))  # of two with one name, the first
        if not self._is_plain(offered):
            return None
        error = self._places.refusal(_text(offered.get(b"authorization")))
        return self._refused(path, offered, error) if isinstance(error, EngineBusy) else None

    def is_crowded(self) -> bool:
        """Whether somebody was refused just now."""
        return time.monotonic() - self._refused_at < CROWD_S

    def _is_plain(self, offered: dict[bytes, bytes]) -> bool:
        config = self._places.services.config
        if offered.keys() & {b"transfer-encoding", b"expect", b"upgrade"}:
            return False
        if config.cors_origins and b"origin" in offered:
            return False
        length = offered.get(b"content-length", b"")
        return length.isdigit() and int(length) <= config.drain_bytes

    def _refused(self, path: str, offered: dict[bytes, bytes], error: EngineBusy) -> Refusal:
        began_at = time.perf_counter()
        self._refused_at = time.monotonic()
        answer = self._answer_to(error)
        request_id = request_id_of(_text(offered.get(_REQUEST_ID)))
        tally = self._tallies.get(path)
        if tally is None:
            metrics = self._places.services.metrics
            tally = self._tallies[path] = RefusalTally(metrics, "POST", path, answer.status, error)
        tally.report(request_id, time.perf_counter() - began_at)
        return answer._replace(
            lines=b"%s%s: %s\r\n" % (answer.lines, _REQUEST_ID, request_id.encode())
        )

    def _answer_to(self, error: EngineBusy) -> Refusal:
        """Return the answer without the id of a request. In a crowd it is mostly that of before."""
        said = (error.message, error.retry_after_s)
        if said != self._said:
            response = error_response(error)
            vary = [(b"vary", b"Origin")] if self._places.services.config.cors_origins else []
            lines = as_lines((*response.raw_headers, *vary))
            self._said = said
            self._answer = Refusal(response.status_code, lines, bytes(response.body))
        return self._answer


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
