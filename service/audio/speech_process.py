"""Silero's model in a process of its own.

The package holds the interpreter's lock for as long as it computes, and asks OpenMP for four
threads whatever there is. In the service's process the event loop would wait for the lock, and an
engine that is a thread there too, after each of a step's hundred operations; here one thread is the
limit, which on two CPUs is twenty times as fast. Knows nothing about what is speech.
"""

from __future__ import annotations

import itertools
import logging
import socket
import subprocess
import sys
import threading
import weakref
from collections import deque
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.audio.sandbox import child_environment
from service.audio.speech_child import HEADER
from service.errors import Unavailable

logger = logging.getLogger(__name__)

_PROGRAM = Path(__file__).with_name("speech_child.py")
_TIMEOUT_S = 60.0
"""For samples to be taken and answered."""
_SAMPLE_BYTES = 4


class SpeechProcess:
    """Starts the process when a model is asked for, and again if it has ended by then."""

    def __init__(self) -> None:
        self.keys = itertools.count()
        self._running: _Running | None = None
        self._lock = threading.Lock()

    def model(self) -> RemoteModel:
        """Return a model that has heard nothing.

        Raises:
            Unavailable: if the process cannot be started.
        """
        return RemoteModel(self)

    def running(self) -> _Running:
        """Return the process that runs now.

        Raises:
            Unavailable: if it cannot be started.
        """
        with self._lock:
            if self._running is None or not self._running.is_alive:
                self._running = _Running()
            return self._running


class RemoteModel:
    """One model there, for one recording at a time; let go there when it is let go here."""

    def __init__(self, process: SpeechProcess) -> None:
        self._process = process
        self._attach()

    def _attach(self) -> None:
        self._running = self._process.running()
        self._key = next(self._process.keys)
        self._is_new = True
        weakref.finalize(self, self._running.let_go.append, self._key)

    def reset(self) -> None:
        """Forget what was heard; go on in a new process if the old one has ended."""
        if not self._running.is_alive:
            self._attach()
        self._is_new = True

    def hear(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the probability of speech in each chunk of what comes next, f32[n 512] -> f32[n].

        Raises:
            Unavailable: if the process has ended, or does not answer.
        """
        found = self._running.ask(self._key, self._is_new, samples)
        self._is_new = False
        return found


class _Running:
    """The process, and the socket to it.

    Attributes:
        let_go: keys of models that nobody has any more.
        is_alive: whether it can be asked.
    """

    def __init__(self) -> None:
        self.let_go: deque[int] = deque()
        self.is_alive = True
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(_TIMEOUT_S)
        try:
            process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-I", str(_PROGRAM)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=child_environment(),
                cwd="/",
                process_group=0,  # a session of its own would get little of a core that is shared
            )
        except OSError as error:
            self._socket.close()
            raise Unavailable(
                f"The detector of voice activity could not be started: {error}."
            ) from error
        finally:
            theirs.close()
        self._end = weakref.finalize(self, _end, process, self._socket)

    def ask(self, key: int, is_new: bool, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what the model says of f32[n 512] samples, f32[n]."""
        with self._lock:
            try:
                while self.let_go:
                    self._socket.sendall(HEADER.pack(self.let_go.popleft(), False, 0))
                self._socket.sendall(HEADER.pack(key, is_new, samples.nbytes))
                self._socket.sendall(np.ascontiguousarray(samples, np.float32).data)
                answer = self._receive(len(samples) * _SAMPLE_BYTES)
            except (OSError, EOFError) as error:
                self.is_alive = False
                self._end()
                logger.error("the detector of voice activity has ended: %r", error)
                raise Unavailable(
                    "The detector of voice activity has ended while it heard this recording.",
                    retry_after_s=1.0,
                ) from error
        return np.frombuffer(answer, np.float32)

    def _receive(self, n_bytes: int) -> bytes:
        answer = b""
        while len(answer) < n_bytes:
            piece = self._socket.recv(n_bytes - len(answer))
            if not piece:
                raise EOFError
            answer += piece
        return answer


def _end(process: subprocess.Popen[bytes], connection: socket.socket) -> None:
    connection.close()
    process.kill()
    process.wait()
