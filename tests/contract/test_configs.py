"""Every configuration that the Python backend was asked to load: what loaded there loads and answers alike, what did not
says why or, by the table of decisions, loads."""
import asyncio
import copy
import json
import time
import urllib.error
import urllib.request

import golden
import pytest
from clients import PROMPT, golden_text, grpc_stream, texts
from conftest import MODELS
from server import TritonServer
from transport import Sender, tensor

RECORDS, _ = golden.load_records("goldens_loads.json")
ASKED = [r for r in RECORDS if r["transport"] == "load" and "requests" not in r]
LOADED = [r for r in RECORDS if "requests" in r]
LISTS = golden.Lists.load()
NO_LISTS = golden.Lists([], [])
# As it was when the records were made: else two of them would go and fetch a model.
NO_NETWORK = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": "/nonexistent/hub"}
# Refused there, served here: how a request is spelled with a batch dimension.
BATCHED = ("ld-batch4", "ld-seedstyle")


@pytest.fixture(scope="module")
def server(repository):
    with TritonServer(repository.folder, env=NO_NETWORK) as running:
        yield running
        assert running.alive(), running.log_tail()


def get(server, path):
    with urllib.request.urlopen(f"{server.url}/{path}") as answer:
        return json.loads(answer.read())


def manage(server, repository, name, verb):
    """What loading or unloading answers, in the form of the records; folders under the names that they have there."""
    request = urllib.request.Request(f"{server.url}/v2/repository/models/{name}/{verb}", data=b"", method="POST")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            status, kind, raw = answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as refused:
        status, kind, raw = refused.code, refused.headers["Content-Type"], refused.read().decode()
    for folder, known in ((repository.folder, "repo"), (MODELS, "MODELS")):
        raw = raw.replace(str(folder), known)
    said = {"status": status, "content_type": kind, "raw": raw}
    return {**said, "json": json.loads(raw)} if raw else said


def asked(server, repository, record):
    """The record's folder, and what loading it answers."""
    name = record["id"].removeprefix("loads.").removeprefix("ld-")
    if "config_pbtxt" in record:
        name = f"ld-{name}"
        arguments = {"__default__": None, None: False}.get(record["model_json"], record["model_json"])
        if arguments:
            arguments = arguments.replace("MODELS/", f"{MODELS}/").replace("repo/", f"{repository.folder}/")
        repository.add(name, config=record["config_pbtxt"], model_json=arguments)
    else:
        name = {"absent": "does-not-exist"}[name]
    return name, manage(server, repository, name, "load")


@pytest.mark.parametrize("record", ASKED, ids=lambda r: r["id"])
def test_what_did_not_load(server, repository, record):
    name, answer = asked(server, repository, record)
    complaint = golden.judge(record, answer, LISTS)
    assert complaint is None, complaint
    assert server.alive(), server.log_tail()
    if answer["status"] != 200:
        return
    inputs = [tensor("text_input", PROMPT)]
    if name in BATCHED:
        inputs[0].set_shape([1, 1])
    answers = grpc_stream(server, name, inputs, {"temperature": 0})
    assert [texts(outputs) for outputs, _ in answers if outputs] == [[PROMPT + golden_text()]], answers
    assert manage(server, repository, name, "unload")["status"] == 200


def test_unloading_what_is_not_there(server, repository):
    record = next(r for r in RECORDS if r["transport"] == "unload")
    assert golden.judge(record, manage(server, repository, "does-not-exist", "unload"), LISTS) is None


@pytest.mark.parametrize("record", LOADED, ids=lambda r: r["id"])
def test_loads_and_answers_alike(server, repository, record):
    name, answer = asked(server, repository, record)
    assert golden.judge(record, answer, NO_LISTS) is None, answer
    assert get(server, f"v2/models/{name}") == record["metadata"]["json"]
    new, old = golden.masked(get(server, f"v2/models/{name}/config")), copy.deepcopy(golden.masked(record["config"]["json"]))
    if "instance_group" not in record["config_pbtxt"]:
        # Whoever says nothing gets the kind that a backend prefers: the GPU if there is one.
        for config in (new, old):
            config["instance_group"][0].pop("kind")
    assert new == old

    async def ask(requests):
        async with Sender(server.url, server.grpc, name) as sender:
            return [await sender.send(r) for r in requests]

    # A short stream on /generate is one event or three there, by chance.
    requests = [r for r in record["requests"] if (r["id"].rsplit(".", 1)[1], r["transport"]) != ("stream", "generate")]
    for request, answer in zip(requests, asyncio.run(ask(requests))):
        complaint = golden.judge(request, answer, NO_LISTS)
        assert complaint is None, (golden.key(request), complaint)
    unloaded, (state,) = record["unload"]
    assert manage(server, repository, name, "unload") == unloaded
    limit = time.monotonic() + 10
    while server.model_state(name) != state["state"]:
        assert time.monotonic() < limit, server.log_tail()
        time.sleep(0.02)
