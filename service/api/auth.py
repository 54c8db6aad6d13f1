"""Who may use a route: `Authorization: Bearer KEY`, with one of the service's keys.

A route is closed unless the app opens it by name, and
nothing here looks at a path or a host, which clients have a say in.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from service.api.deps import Services, get_services
from service.errors import Unauthorized

_bearer = HTTPBearer(
    auto_error=False,
    description="one of the service's keys, where it has any; a service without keys asks for none",
)


async def require_key(
    services: Annotated[Services, Depends(get_services)],
    offered: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> None:
    """Let a request through, as a dependency of its route.

    Raises:
        Unauthorized: if keys are needed, and it has none or another one.
    """
    if not services.config.api_keys.admits(None if offered is None else offered.credentials):
        raise Unauthorized(
            "a key is needed: Authorization: Bearer KEY"
            if offered is None
            else "the key in Authorization is not one of this service's"
        )
