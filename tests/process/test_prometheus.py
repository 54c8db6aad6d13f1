"""`deploy/prometheus` and `deploy/grafana` over a real Prometheus that scrapes a real service."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
import yaml

from tests.process.running import DEADLINE_S, Running, free_port, until

PROMETHEUS = shutil.which("prometheus")

pytestmark = [
    pytest.mark.skipif(
        PROMETHEUS is None, reason="prometheus is not installed (Debian: prometheus)"
    ),
    pytest.mark.timeout(300),  # two servers
]

NOTHING_WRONG = {
    "Refused",
    "Failed",
    "Refused, by reason",
    "Clients that left, by stage",
    "Failed, by reason",
}
"""Panels that are empty as long as nothing is refused, fails or leaves."""

MAX_BYTES = 1_000_000
"""The service's limit here: an upload that is over it is soon made."""


class Prometheus:
    """Prometheus with the shipped configuration, which finds one service and asks it often."""

    def __init__(self, folder: Path, deploy: Path, target: int) -> None:
        config = yaml.safe_load((deploy / "prometheus.yml").read_text(encoding="utf-8"))
        config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
        [job] = config["scrape_configs"]
        [found] = job.pop("dns_sd_configs")
        assert found["port"] == 8000
        job["static_configs"] = [{"targets": [f"127.0.0.1:{target}"]}]
        config["rule_files"] = [str(deploy / name) for name in config["rule_files"]]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
        address = f"127.0.0.1:{free_port()}"
        self.client = httpx.Client(base_url=f"http://{address}/api/v1", timeout=DEADLINE_S)
        assert PROMETHEUS is not None
        self.process = subprocess.Popen(
            [
                PROMETHEUS,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        def up() -> bool:
            if self.process.poll() is not None:
                raise RuntimeError(self.process.communicate()[1])
            try:
                return bool(self.values('up{job="earshot"} == 1'))
            except httpx.TransportError:
                return False

        until(up, "Prometheus has not scraped the service")
        return self

    def __exit__(self, *exception: object) -> None:
        self.client.close()
        self.process.terminate()
        self.process.communicate(timeout=DEADLINE_S)

    def values(self, query: str) -> list[float]:
        """The values of an instant query; none for a sum of nothing."""
        answer = self.client.get("/query", params={"query": query})
        if answer.status_code == 503:  # not started yet
            return []
        body = answer.json()
        assert body["status"] == "success", (query, body)
        values = [float(result["value"][1]) for result in body["data"]["result"]]
        return [value for value in values if not math.isnan(value)]

    def rules(self) -> list[dict[str, Any]]:
        groups = self.client.get("/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]


@pytest.fixture(scope="module")
def service(random_model: Path) -> Iterator[Running]:
    limit = {"EARSHOT_MAX_UPLOAD_BYTES": str(MAX_BYTES)}
    with Running("--model", str(random_model), **limit) as running:
        yield running.wait_ready()


@pytest.fixture(scope="module")
def prometheus(
    service: Running, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    deploy = repository / "deploy" / "prometheus"
    with Prometheus(tmp_path_factory.mktemp("prometheus"), deploy, service.port) as running:
        yield running


def _queries(repository: Path) -> list[tuple[str, str]]:
    """Panel and query, with Grafana's variables filled in as Grafana would."""
    path = repository / "deploy" / "grafana" / "dashboards" / "earshot.json"
    dashboard = json.loads(path.read_text(encoding="utf-8"))
    return [
        (
            panel["title"],
            target["expr"].replace("$instance", ".*").replace("$__rate_interval", "1m"),
        )
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
    ]


def test_every_panel_shows_something_of_a_service_at_work(
    prometheus: Prometheus, service: Running, short: Path, repository: Path
) -> None:
    queries = _queries(repository)
    assert {panel for panel, _ in queries} >= NOTHING_WRONG
    empty = set(queries)

    def all_have_values() -> bool:
        assert list(service.transcribe(short).events())[-1]["type"] == "done"
        for panel, query in tuple(empty):
            if prometheus.values(query) or panel in NOTHING_WRONG:
                empty.discard((panel, query))
        return not empty

    try:
        until(all_have_values, "")
    except TimeoutError:
        pytest.fail(f"nothing to show in {sorted(empty)}")


def test_what_goes_wrong_is_shown(
    prometheus: Prometheus, service: Running, long: Path, repository: Path
) -> None:
    """A body over the limit, and a client that leaves, again and again: rates need two."""
    panels = {"Refused, by reason", "Clients that left, by stage"}
    queries = {query for panel, query in _queries(repository) if panel in panels}

    def shown() -> bool:
        stream = service.transcribe(long)
        stream.first_token()
        stream.response.close()
        refused = service.client.post(f"{service.url}/transcribe", content=bytes(MAX_BYTES + 1))
        assert refused.status_code == 413
        return all(max(prometheus.values(query), default=0) > 0 for query in queries)

    until(shown, "refusals and clients that left are not shown")


def test_every_alert_is_evaluated_without_error_and_none_fires(prometheus: Prometheus) -> None:
    until(
        lambda: all(rule["health"] != "unknown" for rule in prometheus.rules()),
        "the rules are not evaluated",
    )
    rules = prometheus.rules()
    assert len(rules) >= 8
    assert not [rule for rule in rules if rule["health"] != "ok"]
    assert not [rule["name"] for rule in rules if rule["state"] == "firing"]
