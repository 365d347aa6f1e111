"""What servers since 25.12 do differently, shown on 2.51 by a preloaded library (examples/ready_probe.rs): their
readiness question asks every instance, whoever asks it. And a load that was answered 200 serves (case 19)."""
import asyncio
import json
import os
import shutil
import time

import aiohttp
import pytest
from clients import LIMIT_S, PROMPT, generate, golden_text
from conftest import CONFIG, Repository, load
from server import ROOT, TritonServer, built_library

ALLOWED = {"TRITON_VLLM_ALLOW_FAULTS": "1"}
SHORT = {"text_input": PROMPT, "parameters": {"temperature": 0, "max_tokens": 3}}
RIGHT = (200, PROMPT + golden_text(3))


def until(condition, what, limit_s=LIMIT_S):
    limit = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < limit, what() if callable(what) else what
        time.sleep(0.02)


def said(server, model):
    status, answer = generate(server, model, SHORT)
    return status, answer.get("text_output", answer)


@pytest.fixture
def newer(tmp_path):
    """Environment of a server that asks instances as 25.12 to 26.03 do."""
    target = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
    return {**ALLOWED, "LD_PRELOAD": str(target / "release" / "examples" / "libready_probe.so"), "READY_PROBE_NEWER": "1",
            "READY_PROBE": str(tmp_path / "answer"), "READY_PROBE_LIBRARY": str(built_library())}


def folder(parent, name):
    (parent / name).mkdir()
    return Repository(parent / name)


def dies_at(step):
    return {"additional_config": {"inject_faults": {"error_at": step}}}


def test_an_instance_that_dies_does_not_drain_the_other(tmp_path, newer):
    repository = folder(tmp_path, "repository")
    config = CONFIG.replace("count: 1", "count: 2")
    with TritonServer(repository.folder, env=newer, backend_config={"restart": 1_000}) as server:
        # Each instance dies after a few answers, and comes back.
        load(server, repository.add("pair", config=config, engine=dies_at(40)))
        time.sleep(1.2)
        limit = time.monotonic() + 30
        while server.log_since().count("serves again after") < 2:
            assert time.monotonic() < limit, server.log_tail()
            generate(server, "pair", SHORT)
        time.sleep(1.2)
        assert "is being unloaded" not in server.log_since(), server.log_tail()
        until(lambda: said(server, "pair") == RIGHT, server.log_tail)


def test_only_the_servers_side_counts_as_asking(tmp_path, newer):
    """On 25.12 to 26.03 nothing else would tell of the death: /v2/health/ready stays 200."""
    repository = folder(tmp_path, "repository")
    with TritonServer(repository.folder, env=newer) as server:
        load(server, repository.add("dying", engine=dies_at(5)))
        time.sleep(1.2)  # our own thread has looked at the server
        until(lambda: said(server, "dying") != RIGHT, server.log_tail)
        until(lambda: server.model_state("dying") == "UNAVAILABLE", server.log_tail, 10)


def test_a_server_that_asks_keeps_the_model_and_says_no(tmp_path, newer):
    repository = folder(tmp_path, "repository")
    with TritonServer(repository.folder, env=newer) as server:
        load(server, repository.add("asked", engine=dies_at(5)))

        def ready():
            return server_get(server, "v2/models/asked/ready")
        assert ready() == 200
        until(lambda: said(server, "asked") != RIGHT, server.log_tail)
        assert ready() != 200
        time.sleep(1.2)
        assert server.model_state("asked") == "READY"
        until(lambda: "unload it and load it again" in server.log_since(), server.log_tail)
        assert server.unload_model("asked")[0] == 200
        until(lambda: server.model_state("asked") == "UNAVAILABLE", server.log_tail)
        load(server, "asked")
        assert said(server, "asked") == RIGHT


def server_get(server, path):
    async def run():
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{server.url}/{path}") as answer:
                return answer.status
    return asyncio.run(run())


def test_a_namesake_in_another_namespace_does_not_drain_a_model(tmp_path):
    """Two models of one name are found by nobody, so 'not ready' does not mean 'being unloaded'."""
    mine, other = folder(tmp_path, "mine"), folder(tmp_path, "other")
    mine.add("twin")
    extra = ["--repository-poll-secs=1", "--model-namespacing=true", f"--model-repository={other.folder}"]
    with TritonServer(mine.folder, control="poll", extra=extra) as server:
        assert said(server, "twin") == RIGHT
        time.sleep(1.2)
        other.add("twin")
        until(lambda: server.log_since().count("twin: loaded in") == 2, server.log_tail)
        until(lambda: said(server, "twin") != RIGHT, "the name should be ambiguous now")
        time.sleep(1.5)
        shutil.rmtree(other.folder / "twin")
        until(lambda: said(server, "twin") == RIGHT, server.log_tail, 20)


def test_a_load_answered_200_serves(tmp_path):
    """Case 19: loaded again the moment the death is heard of, in each round."""
    repository = Repository(tmp_path)
    name = repository.add("dying", engine=dies_at(8))
    with TritonServer(repository.folder, env=ALLOWED, load=(name,)) as server:
        for _ in range(5):
            died_and_loaded(server, name)
            assert said(server, name) == RIGHT, server.log_tail()
            time.sleep(1.1)
            assert server.model_state(name) == "READY", server.log_tail()
        assert said(server, name) == RIGHT, server.log_tail()


def died_and_loaded(server, name):
    """Requests until one hears of the death, and the load in the same moment."""
    async def run():
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=LIMIT_S)) as session:
            url = f"{server.url}/v2"
            while True:
                async with session.post(f"{url}/models/{name}/generate", data=json.dumps(SHORT)) as answer:
                    if answer.status != 200:
                        break
            async with session.post(f"{url}/repository/models/{name}/load") as answer:
                assert answer.status == 200, await answer.text()
    asyncio.run(run())
