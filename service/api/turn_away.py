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
from service.engine.engine import EngineState
from service.errors import EngineBusy, Unavailable

_REQUEST_ID = REQUEST_ID.encode()

SAME_S = 0.1
"""For so long those who come while every place is taken are told the same."""
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
            return error.with_traceback(None) if self.is_known(authorization) else None
        return None

    def are_taken(self) -> bool:
        """Whether the want of a place is the only reason to refuse somebody."""
        services = self.services
        if services.state is not EngineState.READY or services.serving is None:
            return False
        return services.serving.engine.is_full

    def is_known(self, authorization: str | None) -> bool:
        """Whether who comes has a key, or needs none."""
        keys = self.services.config.api_keys
        if not keys:
            return True
        scheme, key = get_authorization_scheme_param(authorization)
        return keys.admits(key if scheme.lower() == "bearer" else None)


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
        self._refused_at = self._said_at = -math.inf
        self._tallies: dict[str, RefusalTally] = {}
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
        now, authorization = time.monotonic(), _text(offered.get(b"authorization"))
        if now - self._said_at < SAME_S and self._places.are_taken():
            if not self._places.is_known(authorization):
                return None
        else:
            error = self._places.refusal(authorization)
            if not isinstance(error, EngineBusy):
                return None
            self._answer, self._said_at = self._answer_of(error), now
        return self._refused(path, _text(offered.get(_REQUEST_ID)), now)

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

    def _refused(self, path: str, offered_id: str | None, now: float) -> Refusal:
        """Count a refusal, and return the answer with its id."""
        self._refused_at = now
        status, lines, body = self._answer
        request_id = request_id_of(offered_id)
        tally = self._tallies.get(path)
        if tally is None:
            metrics = self._places.services.metrics
            tally = RefusalTally(metrics, "POST", path, status, EngineBusy.code)
            self._tallies[path] = tally
        tally.report(request_id, time.monotonic() - now)
        return Refusal(status, b"%s%s: %s\r\n" % (lines, _REQUEST_ID, request_id.encode()), body)

    def _answer_of(self, error: EngineBusy) -> Refusal:
        """Return the answer without the id of a request."""
        response = error_response(error)
        vary = [(b"vary", b"Origin")] if self._places.services.config.cors_origins else []
        lines = as_lines((*response.raw_headers, *vary))
        return Refusal(response.status_code, lines, bytes(response.body))


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
