"""The configurations that the incumbent loaded: the same auto-completed metadata and the same answers."""
import asyncio
import copy
import json
import urllib.request

import golden
import pytest
from conftest import load
from transport import Sender

RECORDS, _ = golden.load_records("goldens_loads.json")
LOADED = [r for r in RECORDS if r["response"]["status"] == 200 and "requests" in r]
NO_LISTS = golden.Lists([], [])


def get(server, path):
    with urllib.request.urlopen(f"{server.url}/{path}") as answer:
        return json.loads(answer.read())


@pytest.mark.parametrize("record", LOADED, ids=lambda r: r["id"])
def test_loads_and_answers_alike(server, repository, record):
    name = record["id"].removeprefix("loads.")
    load(server, repository.add(name, config=record["config_pbtxt"]))
    assert get(server, f"v2/models/{name}") == record["metadata"]["json"]
    new, old = get(server, f"v2/models/{name}/config"), copy.deepcopy(record["config"]["json"])
    for config in (new, old):
        config.pop("runtime", None)         # the incumbent names model.py there
        if "instance_group" not in record["config_pbtxt"]:
            # Whoever says nothing gets the kind that a backend prefers: the GPU if there is one.
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
    assert server.unload_model(name)[0] == 200
