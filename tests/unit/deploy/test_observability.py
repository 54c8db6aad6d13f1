"""Dashboard and alerts ask for nothing but what `/metrics` has, and the alerts do what they say."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

from service.api.routes.transcribe import router
from service.errors import EngineBusy
from service.metrics import Metrics

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not installed (Debian: prometheus)"
)

OF_PROMETHEUS = {"instance", "job"}
"""Labels that every series gets when it is scraped."""


@pytest.fixture(scope="module")
def deploy(repository: Path) -> Path:
    return repository / "deploy"


@pytest.fixture(scope="module")
def dashboard(deploy: Path) -> dict[str, Any]:
    path = deploy / "grafana" / "dashboards" / "earshot.json"
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="module")
def exposed() -> dict[str, set[str]]:
    """Each series of `/metrics`, with the names of its labels."""
    metrics = Metrics()
    for instrument in vars(metrics).values():
        if isinstance(instrument, MetricWrapperBase) and instrument._labelnames:
            instrument.labels(*instrument._labelnames)
    series: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            series.setdefault(sample.name, set()).update(sample.labels)
    return series


def _panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def _rules(deploy: Path) -> list[dict[str, Any]]:
    loaded = yaml.safe_load((deploy / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))
    return [rule for group in loaded["groups"] for rule in group["rules"]]


def _expressions(dashboard: dict[str, Any], deploy: Path) -> list[str]:
    shown = [target["expr"] for panel in _panels(dashboard) for target in panel["targets"]]
    return shown + [rule["expr"] for rule in _rules(deploy)]


def _asked(expression: str) -> list[tuple[str, dict[str, str]]]:
    """Each series that a query names, with the values that it wants of its labels."""
    return [
        (name, dict(re.findall(r'(\w+)=~?"([^"]*)"', selector or "")))
        for name, selector in re.findall(r"\b(earshot_\w+)(?:\{([^}]*)\})?", expression)
    ]


def test_every_query_names_series_that_exist(
    dashboard: dict[str, Any], deploy: Path, exposed: dict[str, set[str]]
) -> None:
    for expression in _expressions(dashboard, deploy):
        asked = _asked(expression)
        assert asked or re.search(r"\bup\{", expression), expression
        assert {name for name, _ in asked} <= set(exposed), expression


def test_every_query_names_labels_that_the_series_have(
    dashboard: dict[str, Any], deploy: Path, exposed: dict[str, set[str]]
) -> None:
    for expression in _expressions(dashboard, deploy):
        asked = _asked(expression)
        for name, labels in asked:
            assert set(labels) <= exposed[name] | OF_PROMETHEUS, expression
        held = set.union(OF_PROMETHEUS, *(exposed[name] for name, _ in asked))
        grouped = re.findall(r"\b(?:by|on|without)\s*\(([^)]*)\)", expression)
        assert {label.strip() for labels in grouped for label in labels.split(",")} <= held, (
            expression
        )


def test_legends_name_labels_that_the_query_leaves(dashboard: dict[str, Any]) -> None:
    for panel in _panels(dashboard):
        for target in panel["targets"]:
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                sums = re.findall(r"\bby \(([^)]*)\)", target["expr"])
                left = set(re.split(r",\s*", ",".join(sums))) if sums else OF_PROMETHEUS
                assert label in left, target


def test_label_values_are_those_of_the_service(dashboard: dict[str, Any], deploy: Path) -> None:
    wanted = [
        (label, value)
        for expression in _expressions(dashboard, deploy)
        for _, labels in _asked(expression)
        for label, value in labels.items()
        if label not in OF_PROMETHEUS
    ]
    paths = {getattr(route, "path", None) for route in router.routes}
    known: dict[str, set[str | None]] = {"endpoint": paths, "reason": {EngineBusy.code}}
    assert wanted
    for label, value in wanted:
        assert value in known[label], (label, value)


def test_every_panel_stands_alone_in_its_place(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = []
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        columns, rows = range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])
        cells.append({(column, row) for column in columns for row in rows})
    assert not any(one & other for one, other in combinations(cells, 2))


def test_the_dashboard_takes_the_source_that_is_provisioned(
    dashboard: dict[str, Any], deploy: Path
) -> None:
    sources = deploy / "grafana" / "provisioning" / "datasources" / "prometheus.yml"
    [source] = yaml.safe_load(sources.read_text(encoding="utf-8"))["datasources"]
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["datasource"]["query"] == source["type"]
    for panel in _panels(dashboard):
        for target in panel["targets"]:
            assert target["datasource"] == {"type": source["type"], "uid": "${datasource}"}


def _promtool(*arguments: str, folder: Path) -> None:
    assert PROMTOOL is not None
    ended = subprocess.run(
        [PROMTOOL, *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


@needs_promtool
def test_promtool_takes_the_configuration_and_its_rules(deploy: Path) -> None:
    _promtool("check", "config", "prometheus.yml", folder=deploy / "prometheus")


@needs_promtool
def test_every_alert_fires_when_it_should_and_not_on_a_healthy_server(deploy: Path) -> None:
    _promtool("test", "rules", "alerts_test.yml", folder=deploy / "prometheus")


def test_every_alert_is_tested_both_ways(deploy: Path) -> None:
    path = deploy / "prometheus" / "alerts_test.yml"
    tests = yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    names = {rule["alert"] for rule in _rules(deploy)}
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == names
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == names
