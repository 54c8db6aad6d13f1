"""From start to end: what an orchestrator, and the clients whose streams run, see of it."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path

import httpx
import psutil
import pytest

from service.event_loop import NICENESS
from tests.process.running import DEADLINE_S, Running, until, write_wav


def test_it_is_ready_after_loading_and_transcribes(random_model: Path, short: Path) -> None:
    with Running("--model", str(random_model)) as service:
        service.wait_ready()
        events = list(service.transcribe(short).events())
        assert events[0]["type"] == "started"
        assert events[-1]["type"] == "done"
        assert events[-1]["duration_s"] == 1.0
        assert service.client.get(f"{service.url}/v1/models").json()["data"]
        service.send_signal(signal.SIGTERM)
        assert service.wait()[0] == 0


def test_it_lets_its_engine_go_first(random_model: Path) -> None:
    with Running("--model", str(random_model)) as service:
        service.wait_ready()
        engine, own = service.engine(), psutil.Process(service.process.pid)
        until(lambda: own.nice() == engine.nice() + NICENESS, "it is as nice as its engine")


def test_starting_can_be_seen_and_refuses_work(
    random_model: Path, short: Path, tmp_path: Path
) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    with Running.held(hold, "--model", str(random_model)) as service:
        until(lambda: service.state()[0] != 0, "nobody listens")
        assert service.state() == (503, "starting")
        assert service.state("/livez") == (200, "starting")
        refused = service.client.post(f"{service.url}/transcribe", content=short.read_bytes())
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "starting"
        assert int(refused.headers["retry-after"]) >= 1
        hold.unlink()
        service.wait_ready()


def test_sigterm_while_starting_ends_at_once(random_model: Path) -> None:
    with Running("--model", str(random_model)) as service:
        until(lambda: service.state()[0] != 0, "nobody listens")
        service.send_signal(signal.SIGTERM)
        assert service.wait()[0] == 0


@pytest.mark.timeout(600)
def test_sigterm_amid_twenty_streams_ends_each_with_done_and_exits_0(
    random_model: Path, tmp_path: Path
) -> None:
    """Sixteen of them are decoded, and four wait for a slot."""
    audio, hold = write_wav(tmp_path / "audio.wav", 8.0), tmp_path / "hold"
    patient = {"EARSHOT_DRAIN_TIMEOUT_S": "600"}
    with Running.held(hold, "--model", str(random_model), **patient) as service:
        service.wait_ready()
        hold.touch()
        streams = [service.transcribe(audio, temperature="0") for _ in range(20)]
        for stream in streams:
            assert next(stream.events())["type"] == "started"
        service.send_signal(signal.SIGTERM)
        until(lambda: service.state() == (503, "draining"), "draining cannot be seen")
        assert service.state("/livez") == (200, "draining")
        refused = service.client.post(f"{service.url}/transcribe", content=b"RIFF")
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "draining"
        hold.unlink()
        for stream in streams:
            assert list(stream.events())[-1]["type"] == "done"
        assert service.wait()[0] == 0


def test_a_stream_longer_than_the_grace_ends_with_an_error_event(
    random_model: Path, endless: Path
) -> None:
    with Running("--model", str(random_model), EARSHOT_DRAIN_TIMEOUT_S="0.3") as service:
        stream = service.wait_ready().transcribe(endless)
        stream.first_token()
        service.send_signal(signal.SIGTERM)
        last = list(stream.events())[-1]
        assert last["error"]["code"] in {"draining", "engine_dead"}
        code, stderr = service.wait()
        assert code == 1
        assert "cut off" in stderr
        assert "Traceback" not in stderr


def test_a_second_sigterm_ends_it_long_before_its_streams(
    random_model: Path, endless: Path
) -> None:
    with Running("--model", str(random_model), EARSHOT_DRAIN_TIMEOUT_S="600") as service:
        stream = service.wait_ready().transcribe(endless)
        stream.first_token()
        service.send_signal(signal.SIGTERM)
        until(lambda: service.state()[1] == "draining", "draining cannot be seen")
        service.send_signal(signal.SIGTERM)
        code, stderr = service.wait()
        assert code == 1
        assert "second signal" in stderr
        assert "Traceback" not in stderr


def test_a_lost_device_fails_its_streams_and_ends_the_process(
    random_model: Path, long: Path
) -> None:
    with Running("--model", str(random_model), module="tests.process.dying") as service:
        events = list(service.wait_ready().transcribe(long).events())
        assert events[-1]["error"]["code"] == "engine_dead"
        code, stderr = service.wait()
        assert code == 1
        assert "illegal memory access" in stderr


def test_an_engine_whose_process_is_killed_fails_its_streams_and_ends_the_service(
    random_model: Path, endless: Path
) -> None:
    """As the kernel does where memory is short: it holds the model, and is the largest."""
    with Running("--model", str(random_model)) as service:
        stream = service.wait_ready().transcribe(endless)
        stream.first_token()
        service.engine().kill()
        assert list(stream.events())[-1]["error"]["code"] == "engine_dead"
        code, stderr = service.wait()
        assert code == 1
        assert "the engine's process has ended, with code -9" in stderr


def test_a_service_that_is_killed_leaves_no_engine(random_model: Path, endless: Path) -> None:
    with Running("--model", str(random_model)) as service:
        service.wait_ready().transcribe(endless).first_token()
        engine = service.engine()
        service.process.kill()
        until(
            lambda: not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE,
            "the engine does not end",
        )


def test_ctrl_c_ends_an_idle_service_like_sigterm(random_model: Path) -> None:
    with Running("--model", str(random_model)) as service:
        service.wait_ready().send_signal(signal.SIGINT)
        code, stderr = service.wait()
        assert code == 0
        assert "Traceback" not in stderr


def test_a_client_that_trickles_a_head_is_dropped(random_model: Path) -> None:
    with Running("--model", str(random_model), EARSHOT_HEADER_TIMEOUT_S="1") as service:
        service.wait_ready()
        with socket.create_connection(("127.0.0.1", service.port), timeout=DEADLINE_S) as trickle:
            trickle.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
            answer = b""
            while not answer.endswith(b"}"):
                answer += trickle.recv(1 << 16)
            assert answer.startswith(b"HTTP/1.1 200")
            trickle.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\nx-slow: ")
            assert trickle.recv(1) == b""
        with socket.create_connection(("127.0.0.1", service.port), timeout=DEADLINE_S) as silent:
            assert silent.recv(1) == b""


def answer_from(connection: socket.socket) -> bytes:
    """Return the head of the next answer; its body is read too."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(1 << 16)
    head, _, body = answer.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(1 << 16)
    return head


def test_a_refused_client_keeps_its_connection_if_it_sends_the_rest_in_time(
    random_model: Path,
) -> None:
    variables = {
        "EARSHOT_HEADER_TIMEOUT_S": "1",
        "EARSHOT_IDLE_CONNECTION_TIMEOUT_S": "4",
        "EARSHOT_MAX_REQUESTS": "1",
    }
    head = b"POST /transcribe HTTP/1.1\r\nhost: x\r\ncontent-length: 9999\r\n\r\nRIFF"
    with Running("--model", str(random_model), **variables) as service:
        service.wait_ready()

        def n_requests() -> int:
            health = service.client.get(f"{service.url}/health").json()
            return int(health["engine"]["requests"])

        at = ("127.0.0.1", service.port)
        with (
            socket.create_connection(at, timeout=DEADLINE_S) as admitted,
            socket.create_connection(at, timeout=DEADLINE_S) as refused,
            socket.create_connection(at, timeout=DEADLINE_S) as trickling,
        ):
            admitted.sendall(head)
            until(lambda: n_requests() == 1, "the only place is not taken")
            for connection in (refused, trickling):
                connection.sendall(head)
                answer = answer_from(connection)
                assert answer.startswith(b"HTTP/1.1 429 ")
                assert b"connection: close" not in answer.lower()
            refused.sendall(bytes(9995))
            trickling.sendall(b"x")
            assert trickling.recv(1) == b""
            time.sleep(1.2)  # longer than the deadline of a head, on purpose
            refused.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
            assert answer_from(refused).startswith(b"HTTP/1.1 200 ")
            refused.sendall(head + bytes(9995))
            assert answer_from(refused).startswith(b"HTTP/1.1 429 ")
            assert refused.recv(1) == b"", "it has been idle for too long"


def test_a_slow_answer_is_not_dropped_by_the_deadline_of_heads(
    random_model: Path, short: Path, tmp_path: Path
) -> None:
    hold, soon = tmp_path / "hold", {"EARSHOT_HEADER_TIMEOUT_S": "1"}
    with Running.held(hold, "--model", str(random_model), **soon) as service:
        service.wait_ready()
        hold.touch()
        events = service.transcribe(short).events()
        assert next(events)["type"] == "started"
        time.sleep(1.2)  # longer than the deadline of a head, on purpose
        hold.unlink()
        assert list(events)[-1]["type"] == "done"


def test_a_connection_is_kept_for_the_next_request(random_model: Path) -> None:
    with Running("--model", str(random_model), EARSHOT_HEADER_TIMEOUT_S="1") as service:
        service.wait_ready()
        with httpx.Client(timeout=DEADLINE_S, limits=httpx.Limits(max_connections=1)) as client:
            streams = set()
            for _ in range(2):
                answer = client.get(f"{service.url}/livez")
                streams.add(id(answer.extensions["network_stream"]))
                time.sleep(1.2)  # longer than the deadline of a head, on purpose
        assert len(streams) == 1
