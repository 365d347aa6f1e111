"""A dead engine says so at once, to everyone, and is told to the server, loaded again, or ends the process.

Faults are injected by the backend itself (additional_config.inject_faults), which is refused unless the server's
environment allows it.
"""
import asyncio
import json
import os
import time
import urllib.request
from pathlib import Path

import aiohttp
import pytest
from clients import LIMIT_S, PROMPT, generate, golden_text, sse
from conftest import CONFIG, Repository, load
from server import ROOT, TritonServer, built_library

ALLOWED = {"TRITON_VLLM_ALLOW_FAULTS": "1"}
HEALTH_CHECK = CONFIG + 'parameters [ { key: "ENABLE_VLLM_HEALTH_CHECK" value: { string_value: "true" } } ]\n'
SHORT = {"text_input": PROMPT, "parameters": {"temperature": 0, "max_tokens": 3}}
LONG = {"text_input": PROMPT, "stream": True, "parameters": {"temperature": 0, "max_tokens": 200, "ignore_eos": True}}


def faulty(**faults):
    return {"additional_config": {"inject_faults": faults}}


def until(condition, what):
    limit = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < limit, what
        time.sleep(0.02)


def streams(server, model, count):
    """Every event of `count` streams at once."""
    async def run():
        timeout = aiohttp.ClientTimeout(total=LIMIT_S)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
            return await asyncio.gather(*(sse(session, server.url, model, LONG) for _ in range(count)))
    return asyncio.run(run())


def all_failed(answers, cause, gone="no such text"):
    """Each stream ended, with exactly one error, at its end. A refused one has no event stream; one that came when the
    server had let go of the model hears `gone`."""
    for _, events in answers:
        errors = [e for e in events if "error" in str(e)]
        assert len(errors) == 1 and errors[0] is events[-1], events
        assert cause in str(errors[0]) or gone in str(errors[0]), events
    assert any(cause in str(events[-1]) for _, events in answers)


@pytest.mark.parametrize("fault, cause", [
    (faulty(error_at=5), "injected device error in step 5"),
    (faulty(panic_at=5), "injected panic in step 5"),
    (faulty(stall_at=5, stall_ms=3000), "a step did not end within 1000 ms"),
], ids=["error", "panic", "stuck"])
def test_a_dead_engine_fails_all_at_once_and_leaves_the_server(tmp_path, fault, cause):
    repository = Repository(tmp_path)
    options = {"step-timeout-ms": 1000}
    with TritonServer(repository.folder, env=ALLOWED, backend_config=options) as server:
        load(server, repository.add("opt-tiny"))
        load(server, repository.add("dying", engine=fault))
        all_failed(streams(server, "dying", 100), cause, "Request for unknown model")
        until(lambda: server.model_state("dying") == "UNAVAILABLE", server.log_tail())
        assert "the engine failed" in server.log_since() and cause in server.log_since()
        status, answer = generate(server, "dying", SHORT)
        assert status >= 400 and "error" in answer
        status, answer = generate(server, "opt-tiny", SHORT)
        assert (status, answer["text_output"]) == (200, PROMPT + golden_text(3)), "another model is another engine"
        load(server, "dying")
        status, answer = generate(server, "dying", SHORT)
        assert (status, answer["text_output"]) == (200, PROMPT + golden_text(3)), "loaded again, it serves"


def test_the_health_check_parameter_keeps_its_words(tmp_path):
    repository = Repository(tmp_path)
    with TritonServer(repository.folder, env=ALLOWED) as server:
        load(server, repository.add("checked", config=HEALTH_CHECK, engine=faulty(error_at=2)))
        assert generate(server, "checked", SHORT)[0] >= 400
        status, answer = generate(server, "checked", SHORT)
        assert status >= 400, answer
        assert answer["error"] == "Model is unavailable due to unhealthy vLLM engine", answer
        until(lambda: server.model_state("checked") == "UNAVAILABLE", server.log_tail())


class Probe:
    """Asks the instance whether it is ready, as servers since December 2025 do."""

    def __init__(self, folder):
        self.answer = folder / "ready"
        target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
        self.env = {**ALLOWED, "LD_PRELOAD": str(ROOT / target / "release" / "examples" / "libready_probe.so"),
                    "READY_PROBE": str(self.answer), "READY_PROBE_LIBRARY": str(built_library())}

    def ask(self):
        self.answer.unlink(missing_ok=True)
        self.answer.with_suffix(".ask").touch()
        until(self.answer.exists, "the probe does not answer")
        return self.answer.read_text()


def test_a_server_that_asks_an_instance_hears_the_truth(tmp_path):
    repository, probe = Repository(tmp_path), Probe(tmp_path)
    with TritonServer(repository.folder, env=probe.env) as server:
        load(server, repository.add("asked", engine=faulty(error_at=5)))
        assert probe.ask() == "ready"
        all_failed(streams(server, "asked", 1), "injected device error")
        assert "injected device error in step 5" in probe.ask()
        time.sleep(1.5)
        assert server.model_state("asked") == "READY", "such a server needs no unload to know"
        status, answer = generate(server, "asked", SHORT)
        assert status >= 400 and "the engine failed" in answer["error"], answer


def test_a_dead_engine_is_loaded_again_as_often_as_allowed(tmp_path):
    repository, probe = Repository(tmp_path), Probe(tmp_path)
    with TritonServer(repository.folder, env=probe.env, backend_config={"restart": 2}) as server:
        load(server, repository.add("phoenix", engine=faulty(error_at=8)))
        for _ in range(2):
            all_failed(streams(server, "phoenix", 8), "")
            until(lambda: probe.ask() == "ready", server.log_tail())
            status, answer = generate(server, "phoenix", SHORT)
            assert (status, answer["text_output"]) == (200, PROMPT + golden_text(3))
        all_failed(streams(server, "phoenix", 8), "")
        time.sleep(1.5)
        assert "injected device error" in probe.ask(), "two restarts were allowed"
        assert server.log_since().count("serves again after") == 2
        assert server.unload_model("phoenix")[0] == 200
        until(lambda: server.model_state("phoenix") == "UNAVAILABLE", server.log_tail())


def test_a_server_without_unload_is_told_in_the_log(tmp_path):
    repository = Repository(tmp_path)
    repository.add("dying", engine=faulty(error_at=2))
    with TritonServer(repository.folder, env=ALLOWED, control="none") as server:
        assert generate(server, "dying", SHORT)[0] >= 400
        until(lambda: "dead but stays listed as ready" in server.log_since(), server.log_tail())
        status, answer = generate(server, "dying", SHORT)
        assert status >= 400 and "the engine failed" in answer["error"], answer


def test_the_process_leaves_if_it_was_asked_to(tmp_path):
    repository = Repository(tmp_path)
    repository.add("dying", engine=faulty(error_at=2))
    server = TritonServer(repository.folder, env=ALLOWED, control="none", backend_config={"exit-when-dead": "true"})
    server.start()
    try:
        status, answer = generate(server, "dying", SHORT)
        assert status >= 400 and "injected device error" in str(answer), "the last answers still go out"
        until(lambda: not server.alive(), server.log_tail())
        assert server.process.returncode == 1
    finally:
        server.kill()
        server.clean()


def test_faults_are_refused_where_nobody_allowed_them(server, repository):
    status, text = server.load_model(repository.add("sabotage", engine=faulty(error_at=1)))
    assert status >= 400 and "TRITON_VLLM_ALLOW_FAULTS" in text


def test_a_timeout_and_a_priority_of_the_request(tmp_path):
    """One slot, held by a stalling request: the impatient one is refused in time, the urgent one goes first."""
    repository = Repository(tmp_path)
    with TritonServer(repository.folder, env=ALLOWED) as server:
        engine = {"max_num_seqs": 1, **faulty(stall_share=1, stall_ms=30)}
        load(server, repository.add("slow", engine=engine))

        async def ask(session, **more):
            body = {**SHORT, "parameters": {**SHORT["parameters"], **more}}
            async with session.post(f"{server.url}/v2/models/slow/generate", data=json.dumps(body)) as answer:
                return more, answer.status, await answer.text(), time.monotonic()

        async def run():
            async with aiohttp.ClientSession() as session:
                first = asyncio.create_task(ask(session, max_tokens=20))
                await asyncio.sleep(0.1)
                rest = []
                for more in ({}, {"priority": 9}, {"priority": 1}, {"timeout": 50_000}, {"timeout": -1}):
                    rest.append(asyncio.create_task(ask(session, **more)))
                    await asyncio.sleep(0.02)
                return await first, await asyncio.gather(*rest)
        first, (plain, late, urgent, hasty, wrong) = asyncio.run(run())
        assert first[1] == plain[1] == late[1] == urgent[1] == 200
        assert urgent[3] < late[3] < plain[3]
        assert hasty[1] >= 400 and "50000 us" in hasty[2] and hasty[3] < first[3]
        assert wrong[1] == 400 and "'timeout'" in wrong[2]
