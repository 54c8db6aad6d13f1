"""What `docker-compose.yml` puts around the service: confined, on this machine only, matched."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml


@pytest.fixture(scope="module")
def compose(repository: Path) -> dict[str, Any]:
    path = repository / "docker-compose.yml"
    loaded: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="module")
def around(compose: dict[str, Any]) -> dict[str, Any]:
    return {name: of for name, of in compose["services"].items() if "build" not in of}


def test_profiles_add_what_they_are_called_for(around: dict[str, Any]) -> None:
    assert {name: service["profiles"] for name, service in around.items()} == {
        "nginx": ["proxy"],
        "prometheus": ["observability"],
        "grafana": ["observability"],
    }


def test_every_container_is_read_only_and_without_capabilities(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not {"privileged", "cap_add", "network_mode", "pid"} & set(service)


def test_every_port_is_open_on_this_machine_only(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        [port] = service["ports"]
        assert port.startswith("127.0.0.1:")


def test_what_is_mounted_exists_and_named_volumes_are_declared(
    compose: dict[str, Any], repository: Path
) -> None:
    for service in compose["services"].values():
        for volume in service["volumes"]:
            source, _, rest = volume.partition(":")
            if source.startswith("./"):
                assert (repository / source).exists()
                assert rest.endswith(":ro")
            else:
                assert source in compose["volumes"]


def test_images_of_others_are_pinned_to_a_version(around: dict[str, Any]) -> None:
    for service in around.values():
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+[\w.-]*", service["image"])


def test_nginx_and_prometheus_find_both_kinds_of_service(
    compose: dict[str, Any], repository: Path
) -> None:
    services = compose["services"]
    assert "earshot" in services
    assert services["gpu"]["networks"]["default"]["aliases"] == ["earshot"]
    assert services["nginx"]["environment"]["NGINX_UPSTREAM"] == "earshot:8000"
    scrape = (repository / "deploy" / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
    [job] = yaml.safe_load(scrape)["scrape_configs"]
    [found] = job["dns_sd_configs"]
    assert (found["names"], found["port"]) == (["earshot"], 8000)


def test_nginx_gets_every_name_that_its_template_leaves_open(
    around: dict[str, Any], repository: Path
) -> None:
    template = repository / "deploy" / "nginx" / "earshot.conf.template"
    names = set(re.findall(r"\$\{(\w+)\}", template.read_text(encoding="utf-8")))
    given = around["nginx"]["environment"]
    assert names == set(given)
    [port] = around["nginx"]["ports"]
    assert port.endswith(f":{given['NGINX_LISTEN']}")


def test_grafana_finds_its_dashboards_and_prometheus(
    around: dict[str, Any], repository: Path
) -> None:
    mounts = dict(volume.split(":")[:2] for volume in around["grafana"]["volumes"])
    provisioning = repository / "deploy" / "grafana" / "provisioning"
    dashboards = yaml.safe_load((provisioning / "dashboards" / "earshot.yml").read_text())
    [provider] = dashboards["providers"]
    assert mounts["./deploy/grafana/dashboards"] == provider["options"]["path"]
    sources = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())
    [source] = sources["datasources"]
    [port] = around["prometheus"]["ports"]
    assert source["url"] == f"http://prometheus:{port.rpartition(':')[2]}"
