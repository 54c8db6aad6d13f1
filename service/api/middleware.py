"""The outermost layer of every request, as plain ASGI. Knows nothing about routes.

It gives the request its id, owns what the request holds, answers what nobody else answered, drains
a refused body, and reports the end.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from http import HTTPStatus
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import logs
from service.api.body import drain
from service.api.deps import Services
from service.api.errors import REFUSAL, ClientDisconnected, error_response
from service.api.record import REQUEST_ID, STATUS_LEFT, RequestRecord, report, request_id_of

STATUS_OK = 200
OTHER = "other"
"""The endpoint of a path that is not served: whatever a client types is no label."""


class RequestScope:
    """Wraps the app; one `RequestRecord` a request, in `request.state.record`."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; whatever it held is free when this returns."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        record = RequestRecord(request_id_of(headers.get(REQUEST_ID)))
        scope.setdefault("state", {})["record"] = record
        wire = _Wire(record, self._services, headers, receive, send)
        token = logs.request_id.set(record.id)
        try:
            with record.resources, self._at_work(scope):
                await self._serve(scope, wire, record)
        finally:
            report(record, self._services.metrics, scope["method"], _endpoint(scope))
            logs.request_id.reset(token)
            # An error holds the frames that it passed, and they the upload and this record: without
            # the circle, all of that is free now and not when the collector happens to run.
            record.error = scope["state"][REFUSAL] = None

    def _at_work(self, scope: Scope) -> AbstractContextManager[None]:
        """Return what to be in for the time of a request; probes do not count as work."""
        return self._services.idle if scope["method"] == "POST" else nullcontext()

    async def _serve(self, scope: Scope, wire: _Wire, record: RequestRecord) -> None:
        try:
            await self._app(scope, wire.receive, wire.send)
            record.error = record.error or scope["state"].get(REFUSAL)
        except ClientDisconnected as error:
            record.error = error
            record.status = STATUS_LEFT
        except Exception as error:  # noqa: BLE001 - nobody else answers it
            record.fail(error)
            if not record.status:
                await error_response(error)(scope, wire.receive, wire.send)


class _Wire:
    """The two channels to the client, with what every answer needs."""

    def __init__(
        self,
        record: RequestRecord,
        services: Services,
        headers: Headers,
        receive: Receive,
        send: Send,
    ) -> None:
        self._record = record
        self._config = services.config
        self._receive = receive
        self._send = send
        length = headers.get("content-length", "")
        self._body_unread = length not in ("", "0") or "transfer-encoding" in headers
        # Who asked whether to send it at all may go on without. Where this request is the last, the
        # connection would be closed on what is left of it, and the answer lost.
        last = "close" in headers.get("connection", "").lower()
        comes = length.isdecimal() and "expect" not in headers and not last
        self._ends_soon = comes and int(length) <= self._config.drain_bytes
        self._drains = False

    async def receive(self) -> Message:
        message = await self._receive()
        self._body_unread = bool(message.get("more_body", False))
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._record.status = message["status"]
            if self._record.status != STATUS_OK or not self._record.stream:
                # Nothing is left to be done for it: who has been answered can come again at once,
                # and a refused body that is still drained keeps nobody out.
                self._record.resources.close()
            headers = MutableHeaders(raw=list(message.get("headers", [])))
            headers[REQUEST_ID] = self._record.id
            # Who comes again soon keeps the connection: the server passes over the rest of a body
            # whose length is known and small.
            comes_again = message["status"] == HTTPStatus.TOO_MANY_REQUESTS and self._ends_soon
            self._drains = self._body_unread and not comes_again
            if self._drains:
                headers["connection"] = "close"
            await self._send({**message, "headers": headers.raw})
        elif self._drains and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await drain(self.receive, self._config.drain_bytes, self._config.drain_timeout_s)
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            await self._send(message)


def _endpoint(scope: Scope) -> str:
    route: Any = scope.get("route")
    return str(getattr(route, "path", OTHER))
