"""deploy/kubernetes is what Kubernetes takes, and what it says of our service and its commands is so."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from server.app import _UVICORN_CANCELS_S
from server.asgi import build_app
from server.engine import WorkerEngine
from server.security import OPEN_PATHS
from server.settings import Settings
from training.__main__ import main

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
VERSIONS = ("1.29", kubernetes_validate.latest_version())  # the oldest that we name, the newest that there is

Manifest = dict[str, Any]


def written(*folders: str) -> list[Manifest]:
    """What stands in the files, before any kustomization."""
    files = [file for folder in folders for file in (FOLDER / folder).glob("*.yaml") if file.stem != "kustomization"]
    return [manifest for file in sorted(files) for manifest in yaml.safe_load_all(file.read_text())]


def built(folder: str) -> list[Manifest]:
    """What `kubectl apply -k` would send."""
    if not shutil.which("kubectl"):
        pytest.skip("there is no kubectl here, which has kustomize in it")
    command = ["kubectl", "kustomize", str(FOLDER / folder)]
    return list(yaml.safe_load_all(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout))


@pytest.fixture(scope="module", params=["base", "overlays/cpu", "overlays/gpu"])
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    """The base as it stands in its files, and the overlays as kustomize makes them of it."""
    return written("base", "retraining") if request.param == "base" else built(request.param)


@pytest.fixture
def inference_service() -> Manifest:
    (manifest,) = written("kserve")
    return manifest


def one(manifests: list[Manifest], kind: str, name: str = "") -> Any:
    """What stands under `spec` of the only manifest of that kind (and name)."""
    (spec,) = (
        manifest["spec"]
        for manifest in manifests
        if manifest["kind"] == kind and name in ("", manifest["metadata"]["name"])
    )
    return spec


def service_pod(manifests: list[Manifest]) -> Any:
    return one(manifests, "Deployment")["template"]


def training_pod(manifests: list[Manifest]) -> Any:
    return one(manifests, "CronJob")["jobTemplate"]["spec"]["template"]


def container_of(pod: Manifest) -> Any:
    (container,) = pod["spec"]["containers"]
    return container


def kserve_pod(inference_service: Manifest) -> Manifest:
    """Its predictor is a pod's spec, with a few fields more."""
    fields = ("minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "timeout")
    predictor = inference_service["spec"]["predictor"]
    return {"spec": {name: value for name, value in predictor.items() if name not in fields}}


def finds(selector: Manifest, labels: Manifest) -> bool:
    return selector.items() <= labels.items()


def test_kubernetes_takes_every_manifest_and_knows_every_field(manifests: list[Manifest]) -> None:
    for version in VERSIONS:
        for manifest in manifests:
            kubernetes_validate.validate(manifest, version, strict=True)


def test_the_pod_of_the_inference_service_is_one_that_kubernetes_takes(inference_service: Manifest) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "predictor"}, **kserve_pod(inference_service)}
    kubernetes_validate.validate(pod, VERSIONS[-1], strict=True)


def test_what_stands_beside_the_overlays_can_be_built() -> None:
    assert {manifest["kind"] for manifest in built("kserve")} == {
        "InferenceService",
        "PersistentVolumeClaim",
        "CronJob",
    }
    assert {manifest["kind"] for manifest in built("monitoring")} == {"ServiceMonitor", "PrometheusRule"}


def test_every_selector_finds_what_it_means(manifests: list[Manifest]) -> None:
    labels = service_pod(manifests)["metadata"]["labels"]
    assert finds(one(manifests, "Service")["selector"], labels)
    assert finds(one(manifests, "Deployment")["selector"]["matchLabels"], labels)
    assert finds(one(manifests, "PodDisruptionBudget")["selector"]["matchLabels"], labels)
    assert finds(one(manifests, "NetworkPolicy", "cifar-service")["podSelector"]["matchLabels"], labels)
    (spread,) = service_pod(manifests)["spec"]["topologySpreadConstraints"]
    assert finds(spread["labelSelector"]["matchLabels"], labels)
    for pod in (service_pod(manifests), training_pod(manifests)):
        nothing = one(manifests, "NetworkPolicy", "cifar-nothing")
        assert finds(nothing["podSelector"]["matchLabels"], pod["metadata"]["labels"])
    assert not finds(one(manifests, "Service")["selector"], training_pod(manifests)["metadata"]["labels"])
    scaled = one(manifests, "HorizontalPodAutoscaler")["scaleTargetRef"]
    assert one(manifests, scaled["kind"], scaled["name"])


def test_the_service_monitor_finds_the_service_and_its_metrics(manifests: list[Manifest]) -> None:
    monitor = one(written("monitoring"), "ServiceMonitor")
    (labels,) = (manifest["metadata"]["labels"] for manifest in manifests if manifest["kind"] == "Service")
    assert finds(monitor["selector"]["matchLabels"], labels)
    (endpoint,), (port,) = monitor["endpoints"], one(manifests, "Service")["ports"]
    assert (endpoint["port"], endpoint["path"]) == (port["name"], "/metrics")
    assert "/metrics" in routes()


def test_the_cluster_has_the_alerts_that_are_tested_and_they_find_the_service(manifests: list[Manifest]) -> None:
    alerts = (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text()
    assert one(written("monitoring"), "PrometheusRule") == yaml.safe_load(alerts)
    (job,) = set(re.findall(r'job="([^"]+)"', alerts))
    assert one(manifests, "Service", job), "the Prometheus Operator names the job after the Service"


def routes() -> set[str]:
    """The paths that our application answers."""
    app = build_app(Settings(), WorkerEngine([]), lifespan=None)  # type: ignore[arg-type]  # it is not started
    return {getattr(route, "path", "") for route in app.router.routes}


def check_probes(container: Manifest) -> None:
    (port,) = container["ports"]
    assert port["containerPort"] == int(re.findall(r"CIFAR_PORT=(\d+)", (ROOT / "Dockerfile").read_text())[0])
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = container[name]["httpGet"]
        assert asked["port"] in (port["name"], port["containerPort"])
        assert asked["path"] in routes() & OPEN_PATHS, "a probe has no key"


def test_ports_and_probes_are_those_of_the_server(manifests: list[Manifest], inference_service: Manifest) -> None:
    container = container_of(service_pod(manifests))
    check_probes(container)
    check_probes(container_of(kserve_pod(inference_service)))
    (port,) = one(manifests, "Service")["ports"]
    assert port["targetPort"] == container["ports"][0]["name"]
    (rule,) = one(manifests, "NetworkPolicy", "cifar-service")["ingress"]
    assert [allowed["port"] for allowed in rule["ports"]] == [container["ports"][0]["name"]]


def test_environment_variables_are_settings(manifests: list[Manifest], monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in container_of(service_pod(manifests))["env"]:
        if variable["name"].startswith("CIFAR_"):
            assert variable["name"].removeprefix("CIFAR_").lower() in Settings.model_fields
            monkeypatch.setenv(variable["name"], variable["value"])
    Settings()


def test_a_pod_has_time_to_answer_what_it_has_taken(manifests: list[Manifest], inference_service: Manifest) -> None:
    for pod in (service_pod(manifests), kserve_pod(inference_service)):
        command, seconds = container_of(pod)["lifecycle"]["preStop"]["exec"]["command"]
        assert command == "sleep"
        needed = float(seconds) + Settings().deadline_s + _UVICORN_CANCELS_S
        assert pod["spec"]["terminationGracePeriodSeconds"] > needed


def test_pods_may_do_no_more_than_they_need(manifests: list[Manifest], inference_service: Manifest) -> None:
    """As the Pod Security Standard `restricted` asks; also with a read-only root file system and no token."""
    user = int(re.findall(r"--uid (\d+)", (ROOT / "Dockerfile").read_text())[0])
    for pod in (service_pod(manifests), training_pod(manifests), kserve_pod(inference_service)):
        security = pod["spec"]["securityContext"]
        assert (security["runAsNonRoot"], security["runAsUser"], security["fsGroup"]) == (True, user, user)
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container_of(pod)["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert pod["spec"]["enableServiceLinks"] is False, "they look like settings of ours"
        assert "/tmp" in {mount["mountPath"] for mount in container_of(pod)["volumeMounts"]}


def test_what_pods_mount_is_there_or_the_page_says_how_to_make_it(manifests: list[Manifest]) -> None:
    claims = {manifest["metadata"]["name"] for manifest in manifests if manifest["kind"] == "PersistentVolumeClaim"}
    for pod in (service_pod(manifests), training_pod(manifests)):
        volumes = pod["spec"]["volumes"]
        assert {mount["name"] for mount in container_of(pod)["volumeMounts"]} == {volume["name"] for volume in volumes}
        claimed = [volume["persistentVolumeClaim"] for volume in volumes if "persistentVolumeClaim" in volume]
        assert {claim["claimName"] for claim in claimed} <= claims

    container = container_of(service_pod(manifests))
    (keys,) = (Path(variable["value"]) for variable in container["env"] if variable["name"] == "CIFAR_API_KEYS_FILE")
    (mount,) = (mount for mount in container["volumeMounts"] if mount["mountPath"] == str(keys.parent))
    (volume,) = (volume for volume in service_pod(manifests)["spec"]["volumes"] if volume["name"] == mount["name"])
    command = f"kubectl create secret generic {volume['secret']['secretName']} --from-literal {keys.name}="
    assert command in (ROOT / "docs" / "kubernetes.md").read_text()


def test_a_training_ends_where_the_service_looks(manifests: list[Manifest], capsys: pytest.CaptureFixture[str]) -> None:
    serving, training = container_of(service_pod(manifests)), container_of(training_pod(manifests))
    (script,) = training["args"]
    command = script.partition("cifar-train ")[2]
    words = shlex.split(command.replace("\\\n", ""))
    promoted = Path(words[words.index("--promote") + 1])
    assert promoted == Path(serving["workingDir"]) / Settings().checkpoint
    assert mounted(service_pod(manifests), serving["workingDir"]) == ("cifar-models", True)
    assert mounted(training_pod(manifests), str(promoted.parent)) == ("cifar-models", False)
    assert main([*words, "--list"]) == 0, "cifar-train takes all these words"
    assert "net-best" in capsys.readouterr().out


def test_retraining_starts_by_the_manifest_since_the_next_apply_would_undo_a_patch(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    assert "kubectl patch" not in page
    (command,) = re.findall(r"^sed -i .*cronjob\.yaml", page, re.MULTILINE)
    shutil.copytree(FOLDER, tmp_path / FOLDER.relative_to(ROOT))
    subprocess.run(shlex.split(command), cwd=tmp_path, check=True)
    (manifest,) = yaml.safe_load_all((tmp_path / shlex.split(command)[-1]).read_text())
    assert "suspend" in one(written("retraining"), "CronJob")
    assert "suspend" not in manifest["spec"]


def test_pictures_and_checkpoints_get_onto_their_volumes_through_one_pod() -> None:
    pod = {"spec": one(written("retraining"), "Pod", "fill")}
    assert mounted(pod, "/training") == ("cifar-training", False)
    assert mounted(pod, "/models") == ("cifar-models", False)


def mounted(pod: Manifest, path: str) -> tuple[str, bool]:
    """The claim that is mounted at `path`, and whether it is read-only."""
    (mount,) = (mount for mount in container_of(pod)["volumeMounts"] if mount["mountPath"] == path)
    (volume,) = (volume for volume in pod["spec"]["volumes"] if volume["name"] == mount["name"])
    return volume["persistentVolumeClaim"]["claimName"], mount.get("readOnly", False)


def test_only_the_gpu_overlay_asks_for_gpus_and_needs_no_spare_one() -> None:
    for overlay, gpus, surge in (("cpu", 0, 1), ("gpu", 1, 0)):
        manifests = built(f"overlays/{overlay}")
        for pod in (service_pod(manifests), training_pod(manifests)):
            container = container_of(pod)
            assert container["resources"]["limits"].get("nvidia.com/gpu", 0) == gpus
            assert container["image"].endswith({"cpu": ":cpu", "gpu": ":cuda"}[overlay])
        assert one(manifests, "Deployment")["strategy"]["rollingUpdate"]["maxSurge"] == surge
