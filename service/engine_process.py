"""The program of the engine's process: loads a model, and takes turns until it is told to stop.

    python -m service.engine_process DESCRIPTOR

The descriptor is its end of a socket to the service's process (`service/engine/process.py`), with
which it ends. What a terminal or a supervisor sends to all processes of a service is for that one.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import cast

from service import logs
from service.engine.core import EngineCore
from service.engine.messages import Message
from service.engine.process import NUMBER, Loaded, packed, unpacked
from service.engine.worker import EngineWorker
from service.errors import ServiceError
from service.loading import load
from service.memory import give_back, keep_one_arena, keep_what_is_there
from service.settings import Settings

logger = logging.getLogger(__name__)

Load = Callable[[Settings, str], tuple[EngineCore, object]]


class Link:
    """This end of the socket.

    Args:
        descriptor: of the socket.
    """

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)

    def say(self, value: object) -> None:
        """Send a value; if nobody is there any more, leave."""
        try:
            for part in packed(value):
                self._socket.sendall(part)
        except OSError:
            os._exit(1)

    def hear(self) -> object:
        """Return the next value; if nobody is there any more, leave."""
        [n_parts] = NUMBER.unpack(self._read(NUMBER.size))
        lengths = NUMBER.iter_unpack(self._read(n_parts * NUMBER.size))
        return unpacked([self._read(length) for (length,) in lengths])

    def hear_all(self, inbox: queue.SimpleQueue[Message]) -> None:
        """Put every message into an inbox, for ever."""
        try:
            while True:
                inbox.put(cast("Message", self.hear()))
        except BaseException:
            logger.critical("a message to the engine could not be read", exc_info=True)
            os._exit(1)

    def _read(self, n_bytes: int) -> bytearray:
        data = bytearray(n_bytes)
        left = memoryview(data)
        while left:
            try:
                n_read = self._socket.recv_into(left)
            except OSError:
                n_read = 0
            if not n_read:
                os._exit(0)
            left = left[n_read:]
        return data


def main(load: Load = load) -> None:
    """Load what the service says, and work for it.

    Args:
        load: what the service's errand is given to.
    """
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    keep_one_arena()
    link = Link(int(sys.argv[1]))
    settings, source = cast("tuple[Settings, str]", link.hear())
    logs.configure(logs.choose_format(settings.log_format), settings.log_level)
    try:
        core, at_work = load(settings, source)
    except ServiceError as error:
        link.say(error)
        return
    except Exception as error:
        logger.exception("the model could not be loaded")
        link.say(RuntimeError(f"{type(error).__name__}: {error}"))
        return
    link.say(Loaded(core.scheduler.config, at_work))
    keep_what_is_there()
    give_back()  # what loading left
    inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=link.hear_all, args=[inbox], daemon=True).start()
    EngineWorker(core, inbox, link.say, tidy=give_back).run()
    threading.Event().wait()  # until the service leaves, which has to hear the last words


if __name__ == "__main__":
    main()
