"""`earshot serve`: listens, loads, and tells where it is."""

from __future__ import annotations

import logging
import shlex
import sys
from pathlib import Path
from typing import NoReturn

from service import logs
from service.api.app import create_app
from service.build import build_services
from service.cli.display import complain
from service.event_loop import give_way
from service.memory import keep_one_arena
from service.server import ListenError, Server, ServerConfig, is_loopback, listen, run, url_of
from service.settings import Settings

logger = logging.getLogger(__name__)

FAILED = 1
SAMPLE = Path("samples/zero_three_five_one.wav")


def serve_forever(settings: Settings) -> NoReturn:
    """Serve until told to stop, and leave the process."""
    keep_one_arena()
    form = logs.choose_format(settings.log_format)
    logs.configure(form, settings.log_level)
    try:
        bound = listen(settings.host, settings.port)
    except ListenError as error:
        complain(str(error))
        sys.exit(FAILED)
    url = url_of(bound)
    logger.info("listening on %s, loading %s", url, settings.model)
    if not is_loopback(bound) and not settings.all_api_keys:
        logger.warning(
            "%s can be reached from other machines, and needs no key: set EARSHOT_API_KEYS or"
            " EARSHOT_API_KEYS_FILE, unless what stands in front asks for one",
            settings.host,
        )

    def on_dead(error: BaseException) -> None:
        message = f"cannot serve {settings.model}: {error}"
        if form == "json":
            logger.critical(message)
        else:
            complain(message)

    def on_ready() -> None:
        give_way()
        announce(url, settings.model, form)

    services = build_services(settings, on_dead)
    app = create_app(services)
    server = Server(
        app,
        services,
        ServerConfig(
            header_timeout_s=settings.header_timeout_s,
            idle_connection_timeout_s=settings.idle_connection_timeout_s,
            drain_timeout_s=settings.drain_timeout_s,
        ),
        door=app.state.door,
        on_ready=on_ready,
    )
    run(server, bound, app.state.door.is_crowded)


def announce(url: str, model: str, form: logs.LogFormat) -> None:
    """Say that the service takes work, and how to try it."""
    if form == "json":
        logger.info("ready", extra=logs.fields(url=url, model=model))
        return
    sample = shlex.quote(str(SAMPLE)) if SAMPLE.exists() else "recording.wav"
    print(  # noqa: T201 - for a person
        f"\nEarshot serves {model} on {url}\n\n"
        f"    curl -N -F file=@{sample} {url}/transcribe\n\n"
        f"Ctrl-C ends it after the streams that run.\n",
        flush=True,
    )
