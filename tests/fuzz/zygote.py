"""A program that has loaded the decoding child once, and forks one for each file.

To start Python, PyAV and numpy takes a hundred times as long as most files of the fuzzer do. A
child that is forked here runs the same code under the same limits; it is for testing only, the
service executes its children. `forked.py` is the parent. Over the Unix socket that is descriptor
`argv[2]` come messages, and go answers:

    fork      with the child's stdin and stdout beside it  ->  `forked PID`
    kill PID  ends a child and its group, if it has not ended
              ... and of each child, when it has ended     ->  `ended PID CODE`
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import select
import signal
import socket
import sys
from types import ModuleType
from typing import NoReturn

MESSAGE_BYTES = 64


def load(path: str) -> ModuleType:
    """Return the child's module, with everything loaded that it needs."""
    spec = importlib.util.spec_from_file_location("child", path)
    assert spec is not None
    assert spec.loader is not None
    child = sys.modules["child"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(child)
    child.warm_up()
    child.warm_up = lambda: None  # type: ignore[attr-defined]
    return child


def serve_one(child: ModuleType, descriptors: list[int]) -> NoReturn:
    """Be a child whose stdin and stdout are these, to its end."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    os.closerange(3, 64)
    code = 1
    with contextlib.suppress(BaseException):
        child.main()
        sys.stdout.buffer.flush()
        code = 0
    os._exit(code)


def reap(control: socket.socket, living: set[int]) -> None:
    """Tell of every child that has ended."""
    while living:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        living.discard(pid)
        control.send(f"ended {pid} {os.waitstatus_to_exitcode(status)}".encode())


def main() -> None:
    """Fork until the parent is gone."""
    child = load(sys.argv[1])
    control = socket.socket(fileno=int(sys.argv[2]))
    ended, wakes = os.pipe()
    for end in (ended, wakes):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    living: set[int] = set()
    control.send(b"ready")
    while True:
        readable, _, _ = select.select([control.fileno(), ended], [], [])
        if ended in readable:
            with contextlib.suppress(BlockingIOError):
                os.read(ended, 1 << 12)
            reap(control, living)
        if control.fileno() not in readable:
            continue
        message, descriptors, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 2)
        if not message:
            return
        if message == b"fork":
            pid = os.fork()
            if not pid:
                serve_one(child, descriptors)
            living.add(pid)
            control.send(f"forked {pid}".encode())
        elif (pid := int(message.split()[1])) in living:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        for descriptor in descriptors:
            os.close(descriptor)


if __name__ == "__main__":
    main()
