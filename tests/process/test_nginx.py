"""`deploy/nginx` as it is shipped, in a real nginx in front of a real service."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import httpx
import pytest

from service.settings import Settings
from tests.process.running import DEADLINE_S, Running, Stream, free_port, until

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin")

pytestmark = [
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed (Debian: nginx)"),
    pytest.mark.timeout(300),  # a server, and deadlines as long as they are shipped
]

MAIN = """
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 256; }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/conf.d/*.conf;
}}
"""
"""What the distribution's nginx.conf is: it includes conf.d, and says nothing that matters here."""

KEY = "Bearer 5f0c"
SPELLINGS = ["/metrics", "/%6detrics", "//metrics", "/./metrics", "/livez/../metrics", "/metrics?x"]


class Nginx:
    """nginx with the shipped configuration, which is changed in host paths only."""

    def __init__(self, folder: Path, deploy: Path, upstream: int, *, auth: bool = False) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "log" / "access.log"
        for name in ("log", "conf.d", "earshot.d"):
            (folder / name).mkdir()
        template = (deploy / "earshot.conf.template").read_text(encoding="utf-8")
        filled = {
            "NGINX_LISTEN": f"127.0.0.1:{self.port}",
            "NGINX_UPSTREAM": f"127.0.0.1:{upstream}",
        }
        assert set(re.findall(r"\$\{(\w+)\}", template)) == set(filled)
        for name, value in filled.items():
            template = template.replace(f"${{{name}}}", value)
        text = template.replace("/var/log/nginx", str(self.log.parent))
        text = text.replace("/etc/nginx", str(folder))
        (folder / "conf.d" / "earshot.conf").write_text(text, encoding="utf-8")
        if auth:
            example = (deploy / "auth.conf.example").read_text(encoding="utf-8")
            keys = example.replace("Bearer REPLACE-ME", KEY)
            (folder / "earshot.d" / "auth.conf").write_text(keys, encoding="utf-8")
        # Only root may say as whom nginx works, and pytest's folders are their owner's alone.
        user = "user root;" if os.geteuid() == 0 else ""
        main = folder / "nginx.conf"
        main.write_text(MAIN.format(folder=folder, user=user), encoding="utf-8")
        assert NGINX is not None
        self.process = subprocess.Popen(
            [NGINX, "-e", "stderr", "-p", str(folder), "-c", str(main)],
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        until(lambda: self._listens() or self.process.poll() is not None, "nginx does not listen")
        if self.process.poll() is not None:
            raise RuntimeError(self.process.communicate()[1])
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.terminate()
        self.process.communicate(timeout=DEADLINE_S)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE_S)

    def _listens(self) -> bool:
        try:
            self.connect().close()
        except ConnectionRefusedError:
            return False
        return True


@pytest.fixture(scope="module")
def deploy(repository: Path) -> Path:
    return repository / "deploy" / "nginx"


@pytest.fixture(scope="module")
def hold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service decodes nothing while this file exists."""
    return tmp_path_factory.mktemp("service") / "hold"


@pytest.fixture(scope="module")
def service(hold: Path) -> Iterator[Running]:
    """The built-in model."""
    with Running.held(hold) as running:
        yield running.wait_ready()


@pytest.fixture(scope="module")
def nginx(
    service: Running, deploy: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Nginx]:
    with Nginx(tmp_path_factory.mktemp("nginx"), deploy, service.port) as running:
        yield running


def _running(service: Running) -> float:
    """How many requests hold a permit, by the service's own account."""
    metrics = service.client.get(f"{service.url}/metrics").text
    found = re.search(r"^earshot_requests_running (\S+)$", metrics, re.MULTILINE)
    assert found is not None
    return float(found[1])


def _head(path: str, *fields: str, method: str = "POST") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: x", *fields, "", ""]).encode()


def _read_until_closed(connection: socket.socket) -> bytes:
    pieces = []
    while piece := connection.recv(1 << 16):
        pieces.append(piece)
    return b"".join(pieces)


def test_a_token_arrives_before_the_next_one_is_made(
    nginx: Nginx, samples: Path, hold: Path
) -> None:
    """With HTTP/1.0 to the service and its buffering on, both nginx's defaults, none would."""
    audio = (samples / "zero_three_five_one.wav").read_bytes()
    fields = ("content-type: audio/wav", f"content-length: {len(audio)}", "connection: close")
    hold.touch()
    with nginx.connect() as connection:
        connection.sendall(_head("/transcribe", *fields) + audio)
        answer = b""
        while b"event: token" not in answer:  # one is made with the prompt, the others are held
            answer += connection.recv(1 << 16)
        assert hold.exists()
        hold.unlink()
        answer += _read_until_closed(connection)
    assert answer.count(b"event: token") >= 4
    assert b"event: done" in answer


def test_a_stream_is_the_same_as_without_nginx(
    nginx: Nginx, service: Running, samples: Path
) -> None:
    path = samples / "zero_three_five_one.wav"
    through = list(Stream(service.client, nginx.url, path).events())
    direct = list(service.transcribe(path).events())
    assert through[1:-1] == direct[1:-1]
    assert through[-1]["text"] == "zero three five one"


def test_a_client_that_leaves_is_seen_by_the_service(
    deploy: Path, random_model: Path, short: Path, tmp_path: Path
) -> None:
    hold = tmp_path / "hold"
    with (
        Running.held(hold, "--model", str(random_model)) as service,
        Nginx(tmp_path, deploy, service.wait_ready().port) as nginx,
    ):
        hold.touch()
        stream = Stream(service.client, nginx.url, short)
        stream.first_token()
        assert _running(service) == 1
        stream.response.close()
        until(lambda: _running(service) == 0, "the request of a client that left still runs")
        metrics = service.client.get(f"{service.url}/metrics").text
        assert re.search(
            r'^earshot_requests_cancelled_total\{stage="\w+"\} 1\.0$', metrics, re.MULTILINE
        )


def test_a_slow_head_and_a_stalled_body_are_cut_off_and_hold_no_place(
    nginx: Nginx, service: Running
) -> None:
    """A byte every half second would go on for ever, if the deadline were one between bytes."""
    head_s = Settings.model_fields["header_timeout_s"].default
    idle_s = Settings.model_fields["body_idle_timeout_s"].default
    kept_s = Settings.model_fields["idle_connection_timeout_s"].default
    began = time.monotonic()
    with nginx.connect() as slow, nginx.connect() as stalled:
        stalled.sendall(
            _head("/transcribe", "content-type: audio/wav", "content-length: 999") + b"R"
        )
        slow.settimeout(0.5)
        slow.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\nx-slow: ")
        while True:
            try:
                answer = slow.recv(1 << 16)
            except TimeoutError:
                slow.sendall(b"x")
                assert time.monotonic() - began < DEADLINE_S
            else:
                break
        assert answer == b"" or answer.startswith(b"HTTP/1.1 408")
        assert head_s - 1 < time.monotonic() - began < idle_s, "another deadline than that of heads"
        assert _running(service) == 0
        answer = _read_until_closed(stalled)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 408")
        assert idle_s - 1 < time.monotonic() - began < kept_s, (
            "another deadline than that of bodies"
        )


def test_a_body_over_the_limit_is_refused_by_what_its_head_says(nginx: Nginx) -> None:
    limit = Settings.model_fields["max_upload_bytes"].default
    with nginx.connect() as connection:
        fields = ("content-type: audio/wav", f"content-length: {limit + 1}", "connection: close")
        connection.sendall(_head("/transcribe", *fields))
        answer = _read_until_closed(connection)
    assert answer.startswith(b"HTTP/1.1 413")
    assert f"limit of {limit} bytes".encode() in answer
    assert b'"code": "payload_too_large"' in answer


def test_a_body_of_unknown_length_is_refused_where_it_passes_the_limit(nginx: Nginx) -> None:
    limit = Settings.model_fields["max_upload_bytes"].default
    megabyte = bytes(1_000_000)
    chunk = b"%x\r\n%b\r\n" % (len(megabyte), megabyte)
    with nginx.connect() as connection:
        connection.sendall(
            _head("/transcribe", "content-type: audio/wav", "transfer-encoding: chunked")
        )
        for _ in range(limit // len(megabyte) + 1):
            connection.sendall(chunk)
        answer = connection.recv(1 << 16)
    assert answer.startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("path", SPELLINGS)
def test_metrics_stay_inside_however_they_are_spelt(nginx: Nginx, path: str) -> None:
    with nginx.connect() as connection:
        connection.sendall(_head(path, "connection: close", method="GET"))
        answer = _read_until_closed(connection)
    assert answer.startswith(b"HTTP/1.1 404")
    assert b"earshot_" not in answer


def test_refusals_of_the_service_pass_unchanged(nginx: Nginx) -> None:
    refused = httpx.post(f"{nginx.url}/transcribe?url=http://example.com/a.wav", content=b"RIFF")
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "url"


def test_the_log_has_paths_without_their_queries(nginx: Nginx) -> None:
    httpx.post(f"{nginx.url}/transcribe?initial_prompt=confidential", content=b"RIFF")
    until(lambda: '"POST /transcribe" 400' in nginx.log.read_text(), "the request is not logged")
    assert "confidential" not in nginx.log.read_text()


def test_no_server_is_a_503_in_the_services_words(deploy: Path, tmp_path: Path) -> None:
    with Nginx(tmp_path, deploy, free_port()) as nginx:
        answer = httpx.post(f"{nginx.url}/transcribe", content=b"RIFF")
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "unavailable"
    assert int(answer.headers["retry-after"]) >= 1


def test_no_path_and_no_host_leads_around_the_keys(
    deploy: Path, service: Running, tmp_path: Path
) -> None:
    paths = ["/transcribe", "/livez", "/docs", "/v1/models", "/no/such/path", *SPELLINGS]
    with Nginx(tmp_path, deploy, service.port, auth=True) as nginx:
        answer = httpx.get(f"{nginx.url}/livez", headers={"authorization": KEY})
        assert answer.status_code == 200
        for path in paths:
            for host in ("x", "x/livez?", "127.0.0.1"):
                for field in ("x-a: b", "authorization: Bearer wrong", f"authorization: {KEY}0"):
                    with nginx.connect() as connection:
                        connection.sendall(
                            f"GET {path} HTTP/1.1\r\nhost: {host}\r\n{field}\r\n".encode()
                            + b"connection: close\r\n\r\n"
                        )
                        status = _read_until_closed(connection).split(b" ", 2)[1]
                    assert status in {b"400", b"401"}, (path, host, field)
                    assert status == b"401" or "/" in host
