"""Refuses new work while there is no place for it, before the framework has looked at it.

Under overload there are many refusals for each answer, and what they cost is taken from those who
were admitted: routing and dependencies are more than half of that. So the want of a place comes
before whatever else is wrong with a request, but for its key. Who comes between this check and its
route is refused there, by the same error.

Knows nothing about what is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable

from fastapi.security.utils import get_authorization_scheme_param
from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.deps import Services
from service.api.errors import REFUSAL, error_response
from service.errors import Unavailable


class TurnAway:
    """Wraps the routes.

    Args:
        app: what to wrap.
        services: whose engine has places or has not.
        routes: that take a place; POST only. Others are let through.
    """

    def __init__(self, app: ASGIApp, services: Services, routes: Iterable[BaseRoute]) -> None:
        self._app = app
        self._services = services
        self._routes = {route.path: route for route in routes if isinstance(route, Route)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request for which there is no place; let every other through."""
        error = self._refusal(scope)
        if error is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = self._routes[scope["path"]]
        scope["state"][REFUSAL] = error
        await error_response(error)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Unavailable | None:
        """Return why there is no place. Who has no key is not told, but that a key is needed."""
        if scope["type"] != "http" or scope["method"] != "POST":
            return None
        if scope["path"] not in self._routes:
            return None
        try:
            self._services.require_serving().engine.require_place()
        except Unavailable as error:
            return error if self._has_key(scope) else None
        return None

    def _has_key(self, scope: Scope) -> bool:
        offered = Headers(scope=scope).get("authorization")
        scheme, key = get_authorization_scheme_param(offered)
        return self._services.config.api_keys.admits(key if scheme.lower() == "bearer" else None)
