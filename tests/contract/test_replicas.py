"""deploy/replicas.yaml and docs/replicas.md: several replicas behind an inference gateway. Its endpoint picker is not
run here: `picker` reads metrics by its rules, from a stock server under load. Manifests are checked offline."""
import asyncio
import contextlib
import json
import subprocess
import time
import urllib.request

import aiohttp
import jsonschema
import kubernetes_validate
import picker
import pytest
import yaml
from clients import LIMIT_S, PROMPT, generate, sse
from conftest import MODELS, Repository, load
from server import ROOT, TritonServer, installed_versions
from test_health import ALLOWED, faulty
from test_lora import ADAPTERS, GREEDY
from test_metrics import REPORT

LONG = {"text_input": PROMPT, "stream": True, "parameters": {"temperature": 0, "max_tokens": 90, "ignore_eos": True}}
SLOW = faulty(stall_share=1, stall_ms=10)    # a step is as long as one of a real model
MOST_S = 20


@pytest.mark.parametrize("text", [
    "# TYPE a gauge\n# TYPE a gauge\na 1\n", "a 1\n# TYPE a gauge\n", "# TYPE a level\n", "# HELP a x\n# HELP a x\n",
    "a 1\na 1\n", 'a{b="1",b="2"} 1\n', 'a{b=1} 1\n', "a one\n", "a 1 now\n", "a 1", "a-b 1\n",
])
def test_what_the_pickers_parser_refuses(text):
    with pytest.raises(picker.Refused):
        picker.parse(text)


def test_which_series_the_picker_takes():
    text = ("# TYPE q gauge\n" 'q{model="a"} 1\nq{model="b"} 2\n' 'r{model="a"} 1 5\nr{model="b"} 2 7\n'
            "# TYPE h histogram\n" 'h_bucket{le="+Inf"} 1\nh_sum 2\nh_count 1\n')
    families = picker.parse(text)
    assert families.keys() == {"q", "r", "h"} and len(families["h"].samples) == 3
    assert picker.newest(families, "q") == ({"model": "a"}, 1), "no timestamps: the first"
    assert picker.newest(families, "q", by_value=True) == picker.newest(families, "q{model=b}") == ({"model": "b"}, 2)
    assert picker.newest(families, "r") == ({"model": "b"}, 2), "the newest"
    assert picker.newest(families, "q{model=c}") is picker.newest(families, "z") is None


def seen(server):
    return picker.extract(picker.scrape(server.metrics_url), picker.SPECS)


def under_load(server, model, bodies, beside=None):
    """What the picker saw while these streams ran, scraping as often as it does by default."""
    states = []

    async def watch():
        while True:
            states.append(await asyncio.to_thread(seen, server))
            await asyncio.sleep(0.05)

    async def run():
        watching = asyncio.create_task(watch())
        timeout = aiohttp.ClientTimeout(total=LIMIT_S)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
            answers = await asyncio.gather(*(
                sse(session, server.url, name, body) for name in filter(None, (model, beside)) for body in bodies))
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
        return answers
    assert all(status == 200 for status, _ in asyncio.run(run()))
    return states


def until_idle(server):
    limit = time.monotonic() + MOST_S
    while (state := seen(server)).waiting or state.running or state.active or state.queued:
        assert time.monotonic() < limit, state
        time.sleep(0.05)
    return state


@pytest.fixture
def alone(tmp_path):
    """A server and its repository, for one model: the picker reads the first series it finds."""
    repository = Repository(tmp_path)
    with TritonServer(repository.folder, env=ALLOWED) as server:
        yield server, repository


def test_what_the_picker_sees_of_a_loaded_replica(alone):
    server, repository = alone
    engine = {"max_num_seqs": 4, "num_gpu_blocks_override": 40, **SLOW}
    load(server, repository.add("busy", config=REPORT, engine=engine))
    idle = seen(server)
    assert idle == picker.Endpoint(waiting=0, running=0, kv_usage=0, block_size=16, blocks=40), idle
    states = under_load(server, "busy", [LONG] * 12)
    assert all((s.block_size, s.blocks) == (16, 40) for s in states)
    assert all(s.running <= 4 and s.waiting <= 8 and 0 <= s.kv_usage <= 1 for s in states)
    assert max(s.running for s in states) == 4 and max(s.waiting for s in states) >= 6, states
    assert {s.waiting for s in states} >= {0, 4}, "waves of four"
    # A sequence of 96 tokens ends with 6 or 7 pages.
    assert 22 / 39 < max(s.kv_usage for s in states) < 30 / 39, states
    assert until_idle(server) == idle


def test_adapters_as_the_picker_sees_them(alone):
    server, repository = alone
    engine = {"enable_lora": True, "max_lora_rank": 8, "max_loras": 1, "max_num_seqs": 4, **SLOW}
    load(server, repository.add("lora-tiny", config=REPORT, checkpoint=MODELS / "llama-tiny", engine=engine,
                                files={"1/multi_lora.json": json.dumps(ADAPTERS)}))
    idle = seen(server)
    assert (idle.active, idle.queued, idle.most_active) == (set(), set(), 1)
    long = {**GREEDY, "max_tokens": 90, "ignore_eos": True}
    bodies = [{**LONG, "parameters": {**long, "lora_name": name}} for name in ("sheep", "dog") * 2]
    states = under_load(server, "lora-tiny", bodies + [{**LONG, "parameters": long}])
    assert all(s.most_active == 1 and len(s.active) <= 1 and s.active <= {"sheep", "dog"} for s in states)
    assert {frozenset(s.active) for s in states} >= {frozenset({"sheep"}), frozenset({"dog"})}, states
    apart = [s for s in states if s.active and s.queued]
    assert apart and all(s.active | s.queued == {"sheep", "dog"} and not s.active & s.queued for s in apart), states
    assert until_idle(server) == idle
    # vLLM leaves a series for every combination that ever was; here there is one.
    families = picker.parse(picker.scrape(server.metrics_url))
    assert families["vllm:lora_requests_info"].kind == "gauge"
    [(labels, stamp, _)] = families["vllm:lora_requests_info"].samples
    assert labels["model"] == "lora-tiny" and abs(stamp - time.time()) < MOST_S


def test_a_request_that_never_ran_does_not_wait_for_ever(alone):
    """It leaves without a step, which is when gauges are usually set."""
    server, repository = alone
    engine = {"enable_lora": True, "max_lora_rank": 8}
    load(server, repository.add("lora-tiny", config=REPORT, checkpoint=MODELS / "llama-tiny", engine=engine,
                                files={"1/multi_lora.json": json.dumps(ADAPTERS)}))
    body = {"text_input": PROMPT, "parameters": {**GREEDY, "lora_name": "ghost"}}
    status, answer = generate(server, "lora-tiny", body)
    assert status == 400, answer
    state = until_idle(server)
    assert (state.waiting, state.running, state.queued) == (0, 0, set())


@pytest.mark.parametrize("version", installed_versions())
def test_each_server_speaks_so_that_the_picker_understands(tmp_path, version):
    """And takes a body in chunks, as a proxy sends it that has others look at bodies."""
    repository = Repository(tmp_path)
    with TritonServer(repository.folder, version=version) as server:
        load(server, repository.add("tiny", config=REPORT))
        state = seen(server)
        assert (state.waiting, state.running, state.kv_usage, state.block_size) == (0, 0, 0, 16), state
        status, answer = generate(server, "tiny", {"text_input": PROMPT, "parameters": GREEDY})
        if version == "0.4.0":
            assert (status, answer) == (400, ""), "server 2.36 has no /generate"
            return
        assert status == 200, answer
        body = json.dumps({"text_input": PROMPT, "parameters": GREEDY}).encode()
        request = urllib.request.Request(f"{server.url}/v2/models/tiny/generate", data=iter([body[:9], body[9:]]),
                                         headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=LIMIT_S) as chunked:
            assert "Content-length" not in request.headers and json.load(chunked) == answer


def test_of_two_models_the_picker_sees_one(alone):
    """Unless it is told which."""
    server, repository = alone
    for name in ("first", "second"):
        load(server, repository.add(name, config=REPORT, engine={"num_gpu_blocks_override": 40, **SLOW}))
    told = {key: f'{spec}{{model="second"}}' for key, spec in picker.SPECS.items()}
    loads = {}
    for name in ("first", "second"):
        states = under_load(server, name, [LONG])
        until_idle(server)
        loads[name] = max(s.running for s in states)
    assert sorted(loads.values()) == [0, 1], loads

    told_loads = []
    for name in ("first", "second"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(picker, "SPECS", told)
            told_loads.append(max(s.running for s in under_load(server, name, [LONG])))
    assert told_loads == [0, 1]


# ---- the manifest ---------------------------------------------------------------------------------

DOCUMENTS = {(d["kind"], d["metadata"]["name"]): d
             for name in ("kubernetes.yaml", "replicas.yaml")
             for d in yaml.safe_load_all((ROOT / "deploy" / name).read_text())}
OURS = list(yaml.safe_load_all((ROOT / "deploy/replicas.yaml").read_text()))
TEXT, NUMBER = {"type": "string"}, {"type": "integer"}


def record(required="", **properties):
    return {"type": "object", "properties": properties, "additionalProperties": False, "required": required.split()}


def every(items):
    return {"type": "array", "items": items, "minItems": 1}


# What kubernetes-validate does not know: the fields that are used, by the resources' own definitions.
LABELS = record("matchLabels", matchLabels={"type": "object", "additionalProperties": TEXT, "minProperties": 1})
PORT = record("number", number={"type": "integer", "minimum": 1, "maximum": 65535})
POLICIES = every(record("type value periodSeconds", type={"enum": ["Pods", "Percent"]}, value=NUMBER,
                        periodSeconds=NUMBER))
CUSTOM = {
    ("inference.networking.k8s.io/v1", "InferencePool"): record(
        "selector targetPorts endpointPickerRef", selector=LABELS, targetPorts={**every(PORT), "maxItems": 8},
        endpointPickerRef=record("name port", name=TEXT, port=PORT, failureMode={"enum": ["FailOpen", "FailClose"]})),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): record(
        "parentRefs rules", parentRefs=every(record("name", name=TEXT, namespace=TEXT)), rules=every(record(
            "matches backendRefs",
            matches=every(record("path", path=record(
                "type value", type={"enum": ["PathPrefix", "Exact"]}, value=TEXT))),
            backendRefs=every(record("group kind name", group=TEXT, kind=TEXT, name=TEXT)),
            timeouts=record(request={"type": "string", "pattern": "^[0-9]+(h|m|s|ms)$"})))),
    ("keda.sh/v1alpha1", "ScaledObject"): record(
        "scaleTargetRef triggers", scaleTargetRef=record("name", name=TEXT), minReplicaCount=NUMBER,
        maxReplicaCount=NUMBER, pollingInterval=NUMBER, advanced=record(
            horizontalPodAutoscalerConfig=record(behavior=record(
                scaleUp=record(policies=POLICIES),
                scaleDown=record(stabilizationWindowSeconds=NUMBER, policies=POLICIES)))),
        triggers=every(record("type metadata", type={"const": "prometheus"}, name=TEXT, metadata=record(
            "serverAddress query threshold", serverAddress=TEXT, query=TEXT,
            threshold={"type": "string", "pattern": "^[0-9]+$"}, ignoreNullValues={"enum": ["true", "false"]})))),
}
PLUGIN = record("pluginRef", pluginRef=TEXT, weight=NUMBER)
PICKER = record(
    "apiVersion kind plugins schedulingProfiles", apiVersion={"const": "llm-d.ai/v1alpha1"},
    kind={"const": "EndpointPickerConfig"},
    plugins=every(record("type", name=TEXT, type=TEXT, parameters={"type": "object"})),
    requestHandler=record(parsers=every(PLUGIN)),
    schedulingProfiles=every(record("name plugins", name=TEXT, plugins=every(PLUGIN))))


def spec(kind, name="triton-vllm"):
    return DOCUMENTS[kind, name]["spec"]


def picker_config():
    return yaml.safe_load(DOCUMENTS["ConfigMap", "triton-vllm-epp"]["data"]["picker.yaml"])


def triggers():
    return {t["name"]: t["metadata"] for t in spec("ScaledObject")["triggers"]}


@pytest.mark.parametrize("version", ["1.25", kubernetes_validate.latest_version()])
def test_the_api_server_would_take_it(version):
    kinds = set()
    for document in OURS:
        custom = CUSTOM.get((document["apiVersion"], document["kind"]))
        if custom:
            jsonschema.validate(document["spec"], custom)
        else:
            kubernetes_validate.validate(document, version, strict=True)
        kinds.add(document["kind"])
    assert {kind for _, kind in CUSTOM} < kinds
    jsonschema.validate(picker_config(), PICKER)


def test_names_that_refer_are_there():
    pod = spec("Deployment")["template"]
    ports = {p["name"]: p["containerPort"] for p in pod["spec"]["containers"][0]["ports"]}
    labels = pod["metadata"]["labels"]
    pool = spec("InferencePool")
    for selector in (pool["selector"], spec("PodDisruptionBudget")["selector"]):
        assert selector["matchLabels"].items() <= labels.items()
    assert [p["number"] for p in pool["targetPorts"]] == [ports["http"]]
    assert spec("ScaledObject")["scaleTargetRef"]["name"] == "triton-vllm" and "replicas" not in spec("Deployment")
    for rule in spec("HTTPRoute")["rules"]:
        assert [(b["kind"], b["name"]) for b in rule["backendRefs"]] == [("InferencePool", "triton-vllm")]

    name = pool["endpointPickerRef"]["name"]
    service, epp = spec("Service", name), spec("Deployment", name)["template"]
    [box] = epp["spec"]["containers"]
    box_ports = {p["name"]: p["containerPort"] for p in box["ports"]}
    [port] = service["ports"]
    assert service["selector"].items() <= epp["metadata"]["labels"].items()
    assert port["port"] == pool["endpointPickerRef"]["port"]["number"] == box_ports[port["targetPort"]]
    flags = dict(a.removeprefix("--").split("=", 1) for a in box["args"])
    assert flags["pool-name"] == "triton-vllm" and flags["grpc-port"] == str(box_ports["grpc"])
    assert flags["grpc-health-port"] == str(box["readinessProbe"]["grpc"]["port"]) == str(box_ports["health"])
    [volume] = epp["spec"]["volumes"]
    [mount] = box["volumeMounts"]
    config = DOCUMENTS["ConfigMap", volume["configMap"]["name"]]
    assert flags["config-file"] == f'{mount["mountPath"]}/{next(iter(config["data"]))}'
    binding = DOCUMENTS["RoleBinding", name]
    account = epp["spec"]["serviceAccountName"]
    assert ("ServiceAccount", account) in DOCUMENTS and binding["subjects"][0]["name"] == account
    assert ("Role", binding["roleRef"]["name"]) in DOCUMENTS

    config = picker_config()
    plugins = {p["type"]: p.get("parameters") for p in config["plugins"]}
    used = [p["pluginRef"] for profile in config["schedulingProfiles"] for p in profile["plugins"]]
    assert set(used + [p["pluginRef"] for p in config["requestHandler"]["parsers"]]) <= set(plugins)
    assert plugins["metrics-data-source"] == {"port": ports["metrics"]}
    assert config["requestHandler"]["parsers"][-1]["pluginRef"] == "passthrough-parser", "or /v2/models is refused"
    # Its own names are ours: they need no configuration.
    assert plugins["core-metrics-extractor"] is None and "llm-d.ai/engine-type" not in labels


def test_a_pod_ends_in_time():
    pod = spec("Deployment")["template"]["spec"]
    command, seconds = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    exit_timeout_s = 30    # the server's, which the manifest leaves as it is
    assert not any(a.startswith("--exit-timeout-secs") for a in pod["containers"][0]["args"])
    assert command == "sleep" and pod["terminationGracePeriodSeconds"] > int(seconds) + exit_timeout_s


def test_the_autoscalers_queries_count_the_pods(alone, tmp_path):
    """promtool asks them of what two pods would say, each as the server here with two models under load."""
    server, repository = alone
    for name in ("vllm_model", "other"):
        load(server, repository.add(name, config=REPORT, engine={"max_num_seqs": 4, **SLOW}))
    texts = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(picker, "scrape", lambda url, real=picker.scrape: texts.append(real(url)) or texts[-1])
        under_load(server, "vllm_model", [LONG] * 12, beside="other")
    told = {key: f'{s}{{model="vllm_model"}}' for key, s in picker.SPECS.items()}
    full = max(texts, key=lambda text: picker.extract(text, told).waiting)
    state = picker.extract(full, told)
    assert state.running == 4 and state.waiting >= 6
    wanted = {"requests": 2 * (state.running + state.waiting), "waiting": 2 * state.waiting}

    families, series = picker.parse(full), []
    for instance in ("a", "b"):
        for name in ("vllm:num_requests_running", "vllm:num_requests_waiting"):
            for labels, value, _ in families[name].samples:
                inner = ",".join(f'{k}="{v}"' for k, v in {**labels, "instance": instance}.items())
                series.append({"series": f"{name}{{{inner}}}", "values": f"{value:g}x3"})
    checks = [{"expr": triggers()[name]["query"], "eval_time": "2m", "exp_samples": [{"value": value}]}
              for name, value in wanted.items()]
    file = tmp_path / "queries.json"
    file.write_text(json.dumps({"evaluation_interval": "1m", "tests": [
        {"interval": "1m", "input_series": series, "promql_expr_test": checks}]}))
    done = subprocess.run([ROOT / "target/promtool", "test", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert triggers().keys() == wanted.keys() and all(t["ignoreNullValues"] == "false" for t in triggers().values())
