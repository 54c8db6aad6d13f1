"""The page at `/`: its files, and the few facts about this service that it is drawn from.

Knows nothing about what the page does: that is in `service/api/web/`, plain HTML, CSS and
JavaScript modules, read once at import. The page needs no key, and it sends nothing to another
origin: the policy below is what browsers hold it to.
"""

from __future__ import annotations

import hashlib
import mimetypes
from dataclasses import dataclass
from importlib import resources
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from service.api.deps import Services, get_services
from service.api.schemas import TranscribeOptions
from service.text.languages import LANGUAGES

router = APIRouter(include_in_schema=False)

POLICY = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
        " connect-src 'self'; media-src blob:; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    ),
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_TYPES = {".js": "text/javascript; charset=utf-8", ".html": "text/html; charset=utf-8"}


@dataclass(frozen=True, slots=True)
class WebFile:
    """A file of a page, as it is sent."""

    content: bytes
    media_type: str
    etag: str

    def response(self, request: Request, policy: dict[str, str]) -> Response:
        """Return the file, or 304 to a browser that has it. It is asked for again each time."""
        headers = {"cache-control": "no-cache", "etag": self.etag} | policy
        if request.headers.get("if-none-match") == self.etag:
            return Response(status_code=304, headers=headers)
        return Response(self.content, media_type=self.media_type, headers=headers)


def read_file(package: str, *path: str) -> WebFile:
    """Return a file that an installed package brings.

    Raises:
        FileNotFoundError: if it does not bring it.
    """
    content = resources.files(package).joinpath(*path).read_bytes()
    suffix = path[-1][path[-1].rindex(".") :]
    guessed = mimetypes.types_map.get(suffix, "application/octet-stream")
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    return WebFile(content, _TYPES.get(suffix, guessed), etag)


def _page_files() -> dict[str, WebFile]:
    folder = resources.files("service.api").joinpath("web")
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    return {name: read_file("service.api", "web", name) for name in names}


_FILES = _page_files()


@router.get("/")
async def page(request: Request) -> Response:
    """Return the page for people."""
    return _FILES["index.html"].response(request, POLICY)


@router.get("/web/facts.json")
async def facts(services: Annotated[Services, Depends(get_services)]) -> JSONResponse:
    """Return what the page offers: this service's model, languages, options and limits."""
    config, serving = services.config, services.serving
    body: dict[str, Any] = {
        "model": config.model_id,
        "version": config.version,
        "max_upload_bytes": config.max_upload_bytes,
        "needs_key": len(config.api_keys) > 0,
        "options": list(TranscribeOptions.model_fields),
        "languages": None,
    }
    if serving is not None:
        codes = serving.transcriber.tokenizer.languages
        body["languages"] = {code: LANGUAGES.get(code, code).title() for code in codes}
    return JSONResponse(body, headers={"cache-control": "no-store"})


@router.get("/web/{name}")
async def web_file(name: str, request: Request) -> Response:
    """Return a file of the page."""
    if name not in _FILES:
        raise HTTPException(404)
    return _FILES[name].response(request, POLICY)
