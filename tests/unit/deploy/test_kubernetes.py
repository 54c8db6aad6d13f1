"""The rendered overlays are up to date, valid, and right for this service."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.routing import APIRoute

from service.api.routes import ops
from service.audio.decode import _CHILD_MEMORY_BYTES
from service.metrics import Metrics
from service.server import LAST_WORDS_S
from service.settings import PREFIX, Settings, variable

KUSTOMIZE = next(
    (
        [found, *rest]
        for name, rest in (("kustomize", ["build"]), ("kubectl", ["kustomize"]))
        if (found := shutil.which(name))
    ),
    None,
)
BYTES_PER_SECOND = 64_000
WINDOW_BYTES = 30 * BYTES_PER_SECOND
MODEL_BYTES = 1_200_000_000
"""Peak of a whisper-tiny in float32, the smallest that anyone would serve for real."""

Manifests = dict[str, dict[str, Any]]


@pytest.fixture(scope="module", params=["cpu", "gpu"])
def overlay(request: pytest.FixtureRequest, repository: Path) -> Path:
    path: Path = repository / "deploy" / "kubernetes" / "overlays" / request.param
    return path


@pytest.fixture(scope="module")
def rendered(overlay: Path) -> str:
    """What `make manifests` wrote for this overlay."""
    path = overlay.parent.parent / "rendered" / f"{overlay.name}.yaml"
    return path.read_text(encoding="utf-8")


@pytest.mark.skipif(KUSTOMIZE is None, reason="neither kubectl nor kustomize is installed")
def test_rendered_manifests_are_those_of_the_overlay(overlay: Path, rendered: str) -> None:
    assert KUSTOMIZE is not None
    ended = subprocess.run(
        [*KUSTOMIZE, str(overlay)], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert not ended.stderr, "kustomize warns"
    assert list(yaml.safe_load_all(ended.stdout)) == list(yaml.safe_load_all(rendered))


@pytest.fixture(scope="module")
def manifests(rendered: str) -> Manifests:
    """By kind: there is one of each."""
    documents = list(yaml.safe_load_all(rendered))
    by_kind = {document["kind"]: document for document in documents}
    assert len(by_kind) == len(documents)
    return by_kind


@pytest.fixture(scope="module")
def pod(manifests: Manifests) -> dict[str, Any]:
    spec: dict[str, Any] = manifests["Deployment"]["spec"]["template"]["spec"]
    return spec


@pytest.fixture(scope="module")
def container(pod: dict[str, Any]) -> dict[str, Any]:
    [only] = pod["containers"]
    assert isinstance(only, dict)
    return only


@pytest.fixture(scope="module")
def settings(manifests: Manifests) -> Settings:
    """What the service makes of the pod's variables."""
    data = manifests["ConfigMap"]["data"]
    fields = {variable(field): field for field in Settings.model_fields}
    given = {name: value for name, value in data.items() if name.startswith(PREFIX)}
    assert set(given) <= set(fields)
    return Settings.model_validate({fields[name]: value for name, value in given.items()})


@pytest.mark.skipif(
    importlib.util.find_spec("kubernetes_validate") is None,
    reason="kubernetes-validate is not installed (make setup)",
)
@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_kubernetes_knows_every_field(rendered: str, version: str, tmp_path: Path) -> None:
    path = tmp_path / "rendered.yaml"
    path.write_text(rendered, encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, "-m", "kubernetes_validate", "--strict", "-k", version, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_everything_selects_the_pods(manifests: Manifests) -> None:
    deployment = manifests["Deployment"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    selectors = [
        deployment["selector"]["matchLabels"],
        manifests["Service"]["spec"]["selector"],
        manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector
        assert selector.items() <= labels.items()


def test_ports_are_those_of_the_image(
    manifests: Manifests, container: dict[str, Any], settings: Settings
) -> None:
    assert container["ports"] == [{"name": "http", "containerPort": settings.port}]
    assert [port["targetPort"] for port in manifests["Service"]["spec"]["ports"]] == ["http"]
    [rule] = manifests["NetworkPolicy"]["spec"]["ingress"]
    assert rule == {"ports": [{"port": "http"}]}
    annotations = manifests["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(settings.port)


def test_probes_ask_routes_that_mean_what_the_probe_means(container: dict[str, Any]) -> None:
    served = {route.path: route.name for route in ops.router.routes if isinstance(route, APIRoute)}
    probes = {name: container[f"{name}Probe"] for name in ("startup", "readiness", "liveness")}
    paths = {name: probe["httpGet"]["path"] for name, probe in probes.items()}
    assert paths == {"startup": "/readyz", "readiness": "/readyz", "liveness": "/livez"}
    assert (served["/readyz"], served["/livez"]) == (ops.readyz.__name__, ops.health.__name__)
    for probe in probes.values():
        assert probe["httpGet"]["port"] == "http"
        assert probe["timeoutSeconds"] > 1  # the default, which a loaded node misses


def test_a_model_has_minutes_to_load_before_it_counts_as_stuck(
    manifests: Manifests, container: dict[str, Any]
) -> None:
    startup = container["startupProbe"]
    allowed_s = startup["periodSeconds"] * startup["failureThreshold"]
    assert allowed_s >= 600
    assert manifests["Deployment"]["spec"]["progressDeadlineSeconds"] > allowed_s


def test_a_pod_is_given_the_time_that_its_drain_may_take(
    pod: dict[str, Any], container: dict[str, Any], settings: Settings
) -> None:
    [command, seconds] = container["lifecycle"]["preStop"]["exec"]["command"]
    assert command == "sleep"
    readiness = container["readinessProbe"]
    needed_s = float(seconds) + settings.drain_timeout_s + LAST_WORDS_S
    assert pod["terminationGracePeriodSeconds"] > needed_s + readiness["timeoutSeconds"]


def test_the_container_has_no_privileges_and_writes_nothing_of_its_own(
    pod: dict[str, Any], container: dict[str, Any], repository: Path
) -> None:
    user = pod["securityContext"]
    assert user["runAsNonRoot"] is True
    dockerfile = (repository / "Dockerfile").read_text(encoding="utf-8")
    assert f"\nUSER {user['runAsUser']}\n" in dockerfile
    assert user["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(pod)
    assert all("emptyDir" in volume for volume in pod["volumes"])
    paths = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert paths == {"/tmp", "/home/earshot/.cache/huggingface"}
    assert "/home/earshot/.cache/huggingface" in dockerfile


def test_memory_holds_the_budget_what_waits_and_the_decoding_children(
    container: dict[str, Any], settings: Settings
) -> None:
    audio = settings.max_queued_audio_seconds * BYTES_PER_SECOND
    child = _CHILD_MEMORY_BYTES + 2 * settings.max_upload_bytes
    windows = settings.max_requests * WINDOW_BYTES
    needed = MODEL_BYTES + audio + windows + settings.decode_children * child
    limit = container["resources"]["limits"]["memory"]
    assert int(limit.removesuffix("Gi")) << 30 > needed


def test_threads_are_the_cpus_that_the_pod_has(
    container: dict[str, Any], settings: Settings
) -> None:
    """Without a limit, the service would count those of the node."""
    resources = container["resources"]
    cpus = int(resources["requests"]["cpu"])
    limit = int(resources["limits"].get("cpu", 0))
    assert settings.threads == cpus or (settings.threads == 0 and limit == cpus)


def test_the_autoscaler_asks_for_gauges_that_exist_and_can_be_reached(
    manifests: Manifests, settings: Settings, repository: Path
) -> None:
    names = {family.name: family.type for family in Metrics().registry.collect()}
    adapter = repository / "deploy" / "kubernetes" / "prometheus-adapter.yaml"
    [rule] = yaml.safe_load(adapter.read_text(encoding="utf-8"))["rules"]["custom"]
    targets = {}
    for metric in manifests["HorizontalPodAutoscaler"]["spec"]["metrics"]:
        name = metric["pods"]["metric"]["name"]
        assert names[name] == "gauge"
        assert name.removeprefix("earshot_") in rule["seriesQuery"]
        targets[name] = float(metric["pods"]["target"]["averageValue"])
    assert targets["earshot_window_slots_used"] < settings.window_slots
    waiting_at_most = settings.max_requests - settings.window_slots
    assert targets["earshot_requests_waiting"] < waiting_at_most
    assert "replicas" not in manifests["Deployment"]["spec"]


def test_a_disruption_never_waits_for_ever(manifests: Manifests) -> None:
    assert manifests["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1
    assert manifests["HorizontalPodAutoscaler"]["spec"]["minReplicas"] >= 2


def test_a_gpu_is_asked_for_where_the_device_is_one(
    overlay: Path, manifests: Manifests, pod: dict[str, Any], settings: Settings
) -> None:
    resources = pod["containers"][0]["resources"]
    n_gpus = {resources[kind].get("nvidia.com/gpu") for kind in ("requests", "limits")}
    on_gpu = overlay.name == "gpu"
    assert n_gpus == ({"1"} if on_gpu else {None})
    assert settings.device == ("cuda" if on_gpu else "cpu")
    assert [t["key"] for t in pod.get("tolerations", [])] == ["nvidia.com/gpu"] * on_gpu
    surge = manifests["Deployment"]["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
    assert surge == (0 if on_gpu else 1)


def test_only_a_model_of_the_hub_opens_the_way_out(
    manifests: Manifests, settings: Settings
) -> None:
    egress = manifests["NetworkPolicy"]["spec"]["egress"]
    ports = {port["port"] for rule in egress for port in rule["ports"]}
    assert ports == ({53, 443} if "/" in settings.model else set())


def test_the_images_are_those_that_compose_builds(
    container: dict[str, Any], repository: Path, overlay: Path
) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    name, tag = container["image"].split(":")
    assert name == project["name"]
    assert tag == {"cpu": "cpu", "gpu": "cuda"}[overlay.name]
