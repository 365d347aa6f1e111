"""Short rounds of chaos, one seed each: bad clients on sound and on breaking engines, models unloaded under load, pages
for two sequences, a queue that is full. Every request ends once, the process lives, nothing is left behind.
ci/soak runs the same for long."""
import asyncio
import os
import time

import pytest
from chaos import Chaos
from clients import LIMIT_S, PROMPT, generate, golden_text
from conftest import Repository, load
from server import TritonServer
from test_health import ALLOWED, faulty, until

SECONDS = 4
CLIENTS = 24
TIGHT = {"max_num_seqs": 8, "num_gpu_blocks_override": 22}


def open_files(server):
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def serves(server, model):
    status, answer = generate(server, model, {"text_input": PROMPT, "parameters": {"temperature": 0}})
    assert (status, answer["text_output"]) == (200, PROMPT + golden_text()), answer


def rage(server, models, seed, beside=None):
    """A crowd of bad clients; `beside` runs at the same time. What became of the requests."""
    async def run():
        async with Chaos(server, models, seed) as chaos:
            tasks = [chaos.crowd(CLIENTS, SECONDS)] + ([beside()] if beside else [])
            await asyncio.gather(*tasks)
            return chaos
    chaos = asyncio.run(run())
    assert server.alive(), server.log_tail()
    panics = [line for line in server.log_since().splitlines() if "panicked" in line]
    assert all("injected" in line or "fault.rs" in line for line in panics), panics
    assert "dropped without an answer" not in server.log_since()
    return chaos.counts


def total(counts, words):
    return sum(n for what, n in counts.items() if words in what)


def unloads(server, model):
    assert server.unload_model(model)[0] == 200
    until(lambda: server.model_state(model) == "UNAVAILABLE", f"{model} is not unloaded")


@pytest.mark.parametrize("seed, ranks", [(1, 1), (2, 1), (6, 2)])
def test_bad_clients_on_a_tight_pool(server, repository, seed, ranks):
    name = repository.add(f"tight{seed}", engine={**TIGHT, "tensor_parallel_size": ranks})
    load(server, name)
    counts = rage(server, [name], seed)
    assert total(counts, "answered") > 20, counts
    serves(server, name)
    unloads(server, name)       # a request without its FINAL would hold the model for ever


def test_a_full_queue_refuses_and_goes_on(tmp_path):
    repository = Repository(tmp_path)
    with TritonServer(repository.folder, backend_config={"max-waiting": 4}) as server:
        load(server, repository.add("narrow", engine={"max_num_seqs": 2}))
        counts = rage(server, ["narrow"], 3)
        assert total(counts, "answered") > 10 and total(counts, "refused (limit)") > 10, counts
        serves(server, "narrow")
        unloads(server, "narrow")


def test_models_come_and_go_under_load(server, repository):
    names = [repository.add(name, engine=TIGHT) for name in ("stays", "comes")]
    for name in names:
        load(server, name)

    async def beside():
        until_s = time.monotonic() + SECONDS
        while time.monotonic() < until_s:
            await asyncio.to_thread(unloads, server, "comes")
            status, text = await asyncio.to_thread(server.load_model, "comes")
            assert status == 200, text
    counts = rage(server, names, 4, beside)
    assert total(counts, "answered") > 20, counts
    for name in names:
        serves(server, name)
        unloads(server, name)


@pytest.mark.parametrize("several", [{}, {"tensor_parallel_size": 2}, {"data_parallel_size": 2}],
                         ids=["one-device", "two-ranks", "two-engines"])
def test_engines_that_break_again_and_again(tmp_path, several):
    repository = Repository(tmp_path)
    faults = faulty(seed=5, error_share=0.002, panic_share=0.002, stall_share=0.001, stall_ms=1500)
    options = {"restart": 1_000_000, "step-timeout-ms": 500}
    with TritonServer(repository.folder, env=ALLOWED, backend_config=options) as server:
        load(server, repository.add("breaks", engine={**TIGHT, **several, **faults}))
        load(server, repository.add("sound", engine=TIGHT))
        before = open_files(server)
        counts = rage(server, ["breaks", "sound"], 5)
        assert total(counts, "answered") > 20, counts
        assert server.log_since().count("the engine failed, all its requests fail") > 0
        serves(server, "sound")
        for name in ("breaks", "sound"):
            unloads(server, name)
        until(lambda: open_files(server) <= before + 8, f"{before} files open before, {open_files(server)} now")
