"""Where the service listens, and how it says so. Its life is in tests/process."""

from __future__ import annotations

import socket

import pytest

from service.server import ListenError, listen, url_of


def test_a_socket_takes_connections_before_anything_runs() -> None:
    with listen("127.0.0.1", 0) as bound:
        with socket.create_connection(bound.getsockname()):
            pass
        assert url_of(bound) == f"http://127.0.0.1:{bound.getsockname()[1]}"


def test_every_address_is_reached_over_this_machine() -> None:
    with listen("0.0.0.0", 0) as bound:
        assert url_of(bound) == f"http://127.0.0.1:{bound.getsockname()[1]}"


def test_a_taken_port_is_named() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenError, match=f"127.0.0.1:{port}: Address already in use"):
            listen("127.0.0.1", port)


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(ListenError, match=r"192\.0\.2\.1:0: "):
        listen("192.0.2.1", 0)
