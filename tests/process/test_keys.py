"""Keys of a real process: from a file, by the command line's client, and the warning without."""

from __future__ import annotations

import socket
from pathlib import Path

from tests.process.running import Running, earshot, until


def test_keys_in_a_file_close_the_service_to_others(
    random_model: Path, short: Path, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# of the tests\nthe-first\nthe-second\n", encoding="utf-8")
    with Running("--model", str(random_model), EARSHOT_API_KEYS_FILE=str(keys)) as service:
        service.wait_ready()
        command = ("transcribe", "--server", service.url, str(short))
        refused = earshot(*command)
        assert refused.returncode != 0
        assert "a key is needed" in refused.stderr
        taken = earshot(*command, EARSHOT_API_KEY="the-second")
        assert taken.returncode == 0, taken.stderr
        assert "not a setting" not in taken.stderr
        answer = service.client.get(f"{service.url}/v1/models")
        assert answer.status_code == 401
        assert str(keys) not in service.engine().environ().values()
        service.process.terminate()
        assert "the-first" not in service.wait()[1]


def test_a_key_that_cannot_be_is_not_repeated() -> None:
    ran = earshot("serve", EARSHOT_API_KEYS="secret key")
    assert ran.returncode == 2
    assert "EARSHOT_API_KEYS: " in ran.stderr
    assert "secret" not in ran.stderr


def test_a_public_address_without_keys_is_warned_of(random_model: Path) -> None:
    said = {}
    for host, keys in (("0.0.0.0", {}), ("0.0.0.0", {"EARSHOT_API_KEYS": "k"}), ("127.0.0.1", {})):
        with Running("--model", str(random_model), "--host", host, **keys) as service:
            until(service.has_engine, "the engine's process is there")
            assert "EARSHOT_API_KEYS" not in service.engine().environ()
            service.process.terminate()
            said[host, bool(keys)] = "needs no key" in service.wait()[1]
    assert said == {("0.0.0.0", False): True, ("0.0.0.0", True): False, ("127.0.0.1", False): False}


def test_what_is_no_http_is_refused_in_the_same_words(random_model: Path) -> None:
    with Running("--model", str(random_model)) as service:
        service.wait_ready()
        with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
            connection.sendall(b"\x16\x03\x01 this is TLS\r\n\r\n")
            answer = b""
            while piece := connection.recv(4096):
                answer += piece
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code": "invalid_http"' in answer
