"""The web application: routes, errors and the outermost layer, over the services it is given.

Knows nothing about settings or models. It is bound before the model is loaded: the lifespan starts
the loading in the background, and until that is done new work gets a 503.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI
from starlette.middleware.cors import CORSMiddleware

from service.api import errors, pulse
from service.api.auth import require_key
from service.api.deps import Services
from service.api.middleware import RequestScope
from service.api.openapi_errors import EVERYWHERE, without_422
from service.api.routes import docs, models, openai, ops, page, transcribe
from service.api.turn_away import Door, Places, TurnAway


def create_app(services: Services) -> FastAPI:
    """Return the application. Its lifespan starts and ends what `services` holds.

    `state.door` is for the server, to refuse what the application need not hear of.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(services.load(), name="load-model")
        watching = asyncio.create_task(pulse.watch(services.metrics), name="watch-loop")
        try:
            yield
        finally:
            loading.cancel()
            watching.cancel()
            await asyncio.gather(loading, watching, return_exceptions=True)
            if services.serving is not None:
                await services.serving.engine.stop(0.0)
            await services.audio_decoder.close()

    app = FastAPI(
        title="Earshot",
        summary="Speech to text: audio in, tokens out while they are decoded",
        version=services.config.version,
        lifespan=lifespan,
        responses=EVERYWHERE,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
    )
    app.state.services = services
    for family in (transcribe, openai, models):
        app.include_router(family.router, dependencies=[Depends(require_key)])
    for family in (ops, page, docs):  # open to everybody
        app.include_router(family.router)
    errors.install(app)
    without_422(app)
    places = Places(services, [*transcribe.router.routes, *openai.router.routes])
    app.state.door = Door(places)
    app.add_middleware(TurnAway, places=places)
    if services.config.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=services.config.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after", "retry-after-ms", "x-should-retry"],
        )
    app.add_middleware(RequestScope, services=services)
    return app
