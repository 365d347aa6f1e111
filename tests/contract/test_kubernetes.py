"""deploy/kubernetes.yaml: valid for the API server, safe by our own rules, and its arguments do to a stock server what
they say."""
import json
import socket
import subprocess
import time
import urllib.error
import urllib.request

import kubernetes_validate
import pytest
import tritonclient.grpc as grpc
import yaml
from clients import PROMPT, generate, golden_text
from conftest import Repository
from server import ROOT, TritonServer
from tritonclient.utils import InferenceServerException

DOCUMENTS = list(yaml.safe_load_all((ROOT / "deploy/kubernetes.yaml").read_text()))
KEY = "the key of this test"


def of_kind(kind):
    return {d["metadata"]["name"]: d for d in DOCUMENTS if d["kind"] == kind}


def pod():
    return of_kind("Deployment")["triton-vllm"]["spec"]["template"]


def container():
    [only] = pod()["spec"]["containers"]
    return only


@pytest.mark.parametrize("version", ["1.25", kubernetes_validate.latest_version()])
def test_the_api_server_would_take_it(version):
    for document in DOCUMENTS:
        kubernetes_validate.validate(document, version, strict=True)
    broken = json.loads(json.dumps(of_kind("Deployment")["triton-vllm"]))
    broken["spec"]["template"]["spec"]["containers"][0]["startupProbe"]["failuresAllowed"] = 3
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, version, strict=True)


def test_a_slow_load_is_not_killed_and_a_dead_server_is():
    probes = {name: container()[f"{name}Probe"] for name in ("startup", "readiness", "liveness")}
    assert {n: p["httpGet"]["path"] for n, p in probes.items()} == {
        "startup": "/v2/health/live", "readiness": "/v2/health/ready", "liveness": "/v2/health/live"}
    allowed_s = probes["startup"]["periodSeconds"] * probes["startup"]["failureThreshold"]
    assert allowed_s >= 1800 and of_kind("Deployment")["triton-vllm"]["spec"]["progressDeadlineSeconds"] > allowed_s
    assert probes["liveness"]["periodSeconds"] * probes["liveness"]["failureThreshold"] <= 60
    assert pod()["spec"]["terminationGracePeriodSeconds"] > 30


def test_names_that_refer_are_there():
    spec = pod()["spec"]
    volumes = {v["name"]: v for v in spec["volumes"]}
    assert {m["name"] for m in container()["volumeMounts"]} == set(volumes)
    ports = {p["name"]: p["containerPort"] for p in container()["ports"]}
    assert ports == {"http": 8000, "grpc": 8001, "metrics": 8002}
    for service in of_kind("Service").values():
        assert service["spec"]["selector"].items() <= pod()["metadata"]["labels"].items()
        assert all(p["targetPort"] in ports for p in service["spec"]["ports"])
    assert volumes["cache"]["persistentVolumeClaim"]["claimName"] in of_kind("PersistentVolumeClaim")
    mounts = {m["mountPath"]: m for m in container()["volumeMounts"]}
    env = {e["name"]: e for e in container()["env"]}
    assert env["HF_HOME"]["value"].startswith("/cache") and not mounts["/cache"].get("readOnly")
    assert mounts["/models"]["readOnly"]
    assert env["HF_TOKEN"]["valueFrom"]["secretKeyRef"]["optional"] and "value" not in env["HF_TOKEN"]


def test_it_asks_for_what_it_needs_and_no_more():
    spec, box = pod()["spec"], container()
    assert box["resources"]["requests"].keys() >= {"cpu", "memory"}
    assert box["resources"]["limits"].keys() >= {"memory", "nvidia.com/gpu"}
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert box["securityContext"] == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                      "capabilities": {"drop": ["ALL"]}}
    assert spec["automountServiceAccountToken"] is False
    assert box["image"].rsplit(":", 1)[1] not in ("", "latest")


def test_clients_see_inference_only():
    public = of_kind("Service")["triton-vllm"]["spec"]["ports"]
    assert {p["name"] for p in public} == {"http", "grpc"}, "metrics have a service of their own"
    assert "--model-control-mode=none" in container()["args"]


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    """The stock server with the file's own arguments."""
    program, repository, control, *extra = container()["args"]
    assert program == "tritonserver" and repository == "--model-repository=/models"
    extra = [a.replace("$(ADMIN_KEY)", KEY) for a in extra]
    models = Repository(tmp_path_factory.mktemp("models"))
    models.add("opt-tiny")
    mode = control.removeprefix("--model-control-mode=")
    with TritonServer(models.folder, control=mode, extra=extra) as server:
        yield server


def ask(server, path, body=None, **headers):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{server.url}/{path}", data=data, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()


def test_the_deployed_server_answers(deployed):
    body = {"text_input": PROMPT, "parameters": {"temperature": 0, "max_tokens": 3}}
    status, answer = generate(deployed, "opt-tiny", body)
    assert (status, answer["text_output"]) == (200, PROMPT + golden_text(3))
    assert ask(deployed, "v2/health/live")[0] == ask(deployed, "v2/health/ready")[0] == 200
    assert ask(deployed, "v2/models/opt-tiny")[0] == 200, "clients may read inputs and outputs"
    with grpc.InferenceServerClient(deployed.grpc) as client:
        assert client.is_server_ready() and client.get_model_metadata("opt-tiny").name == "opt-tiny"


@pytest.mark.parametrize("path, body", [
    ("v2/repository/index", {}),
    ("v2/repository/models/opt-tiny/unload", {}),
    ("v2/repository/models/opt-tiny/load", {}),
    ("v2/models/opt-tiny/config", None),
    ("v2/models/opt-tiny/stats", None),
    ("v2/systemsharedmemory/region/x/register", {"key": "/x", "byte_size": 1}),
    ("v2/logging", {"log_verbose_level": 1}),
    ("v2/trace/setting", {"trace_level": ["TIMESTAMPS"]}),
])
def test_a_client_of_the_deployed_server_controls_nothing(deployed, path, body):
    assert ask(deployed, path, body)[0] == 403


def test_the_holder_of_the_key_may_look(deployed):
    status, text = ask(deployed, "v2/repository/index", {}, **{"admin-key": KEY})
    assert status == 200 and '"opt-tiny"' in text
    status, text = ask(deployed, "v2/repository/models/opt-tiny/unload", {}, **{"admin-key": KEY})
    assert status != 200, "not even the key controls models"
    with grpc.InferenceServerClient(deployed.grpc) as client:
        with pytest.raises(InferenceServerException):
            client.get_model_repository_index()
        index = client.get_model_repository_index(headers={"triton-grpc-protocol-admin-key": KEY})
        assert index.models[0].name == "opt-tiny"


def test_no_port_is_open_before_the_models_are_loaded(tmp_path):
    """Why there is a startup probe: a hub that does not answer keeps the load, and the ports, waiting."""
    with socket.create_server(("127.0.0.1", 0)) as hub:
        repository = Repository(tmp_path)
        repository.add("far", engine={"model": "org/name"})
        env = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.getsockname()[1]}", "HF_HOME": str(tmp_path / "cache")}
        server = TritonServer(repository.folder, control="none", env=env)
        process = subprocess.Popen(server.command(), env=server.env, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        try:
            hub.settimeout(60)
            hub.accept()
            time.sleep(0.5)
            for port in server.ports:
                with socket.socket() as probe:
                    assert probe.connect_ex(("127.0.0.1", port)) != 0
            assert process.poll() is None
        finally:
            process.kill()
            process.wait()
            server.clean()
