"""`/docs`: the description in `/openapi.json` to read and to try, from this origin alone.

Swagger UI's files come from a package (ADR 11), because FastAPI's own page loads them from a
content delivery network. Knows nothing about what is described.
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from service.api.routes.page import POLICY, read_file

router = APIRouter(include_in_schema=False)

_POLICY = POLICY | {
    # Swagger UI draws with inline styles and with pictures in its style sheet.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline';"
        " img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    ),
}
_PAGE = read_file("service.api", "web", "docs.html")
_FILES = {
    name: read_file("fastapi_offline", "static", name)
    for name in ("swagger-ui-bundle.js", "swagger-ui.css")
}


@router.get("/docs")
async def docs(request: Request) -> Response:
    """Return the page that Swagger UI draws on."""
    return _PAGE.response(request, _POLICY)


@router.get("/docs/{name}")
async def docs_file(name: str, request: Request) -> Response:
    """Return a file of Swagger UI."""
    if name not in _FILES:
        raise HTTPException(404)
    return _FILES[name].response(request, _POLICY)
