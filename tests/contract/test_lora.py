"""LoRA under a stock server: the Python backend's recorded answers, adapters side by side, and adapters that are broken."""
import asyncio
import copy
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
import time

import aiohttp
import golden
import pytest
from clients import LIMIT_S, PROMPT, generate, grpc_stream, post
from conftest import CONFIG, ENGINE, MODELS, load
from server import ROOT
from transport import Sender

RECORDS, _ = golden.load_records("goldens_lora.json")
# What the Python backend's dead engine said, or did not say: not what we want to say.
OURS = ("lora.bad_path", "lora.after", "lora.load", "lora.load_without_multi_lora_json")
SENT = [r for r in RECORDS if r["id"] not in OURS]
ADAPTERS = {"sheep": str(MODELS / "llama-lora-a"), "dog": str(MODELS / "llama-lora-b"), "ghost": "/nonexistent/lora"}
SAMPLE = ROOT / "model_repository" / "vllm_model" / "1"
GREEDY = {"temperature": 0, "max_tokens": 12}


def add(repository, name, adapters=ADAPTERS, checkpoint=MODELS / "llama-tiny", **engine):
    files = {"1/multi_lora.json": json.dumps(adapters)} if adapters is not None else {}
    engine = {"enable_lora": "true", "max_lora_rank": 8, **engine}
    return repository.add(name, checkpoint=checkpoint, engine=engine, files=files)


@pytest.fixture(scope="module")
def lora(server, repository):
    load(server, add(repository, "lora-tiny"))
    return server


def ask(server, model, adapter, prompt=PROMPT, **parameters):
    named = {} if adapter is None else {"lora_name": adapter}
    body = {"text_input": prompt, "exclude_input_in_output": True, "parameters": {**GREEDY, **named, **parameters}}
    return generate(server, model, body)


@pytest.mark.parametrize("record", SENT, ids=lambda r: "-".join(golden.key(r)))
def test_recorded_answers(lora, record):
    async def send():
        async with Sender(lora.url, lora.grpc, record["model"], {}) as sender:
            return await sender.send(copy.deepcopy(record))

    complaint = golden.judge(record, asyncio.run(send()), golden.Lists([], []))
    assert complaint is None, complaint


def test_a_missing_adapter_fails_its_request_alone(lora):
    where = lora.log_size()
    expected = "Error generating stream: LoRA adapter 'ghost': /nonexistent/lora/adapter_config.json not found."
    status, answer = ask(lora, "lora-tiny", "ghost")
    assert (status, answer) == (400, {"error": expected})
    answers = grpc_stream(lora, "lora-tiny", {"text_input": PROMPT, "stream": True,
                                              "sampling_parameters": json.dumps({**GREEDY, "lora_name": "ghost"})})
    assert answers == [expected]
    assert "LoRA adapter 'ghost'" in lora.log_since(where)
    status, answer = ask(lora, "lora-tiny", None)
    assert status == 200 and answer["text_output"] == text_of("lora.None")
    status, answer = ask(lora, "lora-tiny", "sheep")
    assert status == 200 and answer["text_output"] == text_of("lora.sheep")


def text_of(case):
    record = next(r for r in RECORDS if golden.key(r) == (case, "generate"))
    return record["response"]["json"]["text_output"]


def test_loads_that_are_refused(server, repository):
    for name, adapters, engine, words in (
            ("lora-nofile", None, {}, "Triton backend cannot find "),
            ("lora-rank", ADAPTERS, {"max_lora_rank": 7}, "max_lora_rank must be one of 1, 8, 16"),
            ("lora-list", ["a"], {}, "multi_lora.json must hold one JSON object"),
            ("lora-number", {"a": 5}, {}, "multi_lora.json: the folder of 'a' must be a string, got 5")):
        status, text = server.load_model(add(repository, name, adapters, **engine))
        assert status == 400 and words in text, text
    status, text = server.load_model("lora-nofile")
    assert f"{repository.folder}/lora-nofile/1/multi_lora.json." in text


def test_without_enable_lora_the_file_means_nothing(server, repository):
    load(server, add(repository, "lora-off", enable_lora="false"))
    status, answer = ask(server, "lora-off", "sheep")
    assert (status, answer) == (400, {"error": "LoRA feature is not enabled."})
    status, answer = ask(server, "lora-off", None)
    assert status == 200 and answer["text_output"] == text_of("lora.None")


def test_a_rank_above_the_limit(server, repository):
    load(server, add(repository, "lora-low", max_lora_rank=1))
    status, answer = ask(server, "lora-low", "sheep")
    assert status == 400 and "LoRA rank 8 is greater than max_lora_rank 1." in answer["error"], answer


# ---- the sample model: the same sums, said in another way -----------------------------------------

SAY = {
    None: lambda answer: answer,
    "apples": lambda answer: f"{answer[:-1]} apples.",
    "dollars": lambda answer: f" ${answer[1:]}",
}


def questions(count):
    script = ROOT / "training" / "questions.py"
    out = subprocess.run([sys.executable, script, "--seed", "99", "--count", str(count)],
                         capture_output=True, text=True, check=True)
    return [json.loads(line) for line in out.stdout.splitlines()]


def abacus(repository, name, **engine):
    """The sample model with the multi_lora.json and the adapters that lie beside it."""
    adapters = json.loads((SAMPLE / "multi_lora.json").read_text())
    adapters = {name: str(SAMPLE / folder) for name, folder in adapters.items()}
    return add(repository, name, adapters, SAMPLE / "abacus", dtype="auto", max_model_len=512, **engine)


@pytest.mark.parametrize("max_loras", [1, 2])
def test_adapters_side_by_side(server, repository, max_loras):
    """With one adapter slot requests for the other adapter wait; with two all run in the same steps."""
    model = abacus(repository, f"abacus-{max_loras}", max_loras=max_loras)
    load(server, model)
    asked = [(q, adapter) for q in questions(60) for adapter in SAY]

    async def run():
        gate = asyncio.Semaphore(48)

        async def one(question, adapter):
            named = {"lora_name": adapter} if adapter else {}
            body = {"text_input": question["prompt"], "exclude_input_in_output": True,
                    "parameters": {**GREEDY, **named}}
            async with gate:
                return await post(server.url, f"{model}/generate", body)
        return await asyncio.gather(*(one(*pair) for pair in asked))

    right = {adapter: 0 for adapter in SAY}
    for (question, adapter), (status, answer) in zip(asked, asyncio.run(run())):
        assert status == 200, answer
        right[adapter] += answer["text_output"] == SAY[adapter](question["answer"])
    assert all(count >= 54 for count in right.values()), right


def test_a_cached_prompt_belongs_to_its_adapter(server, repository):
    """The prompt is longer than some pages: K and V of one adapter must not be hit by another."""
    model = abacus(repository, "abacus-cached", max_loras=2)
    load(server, model)
    lines = "".join(f"{q['prompt']}{q['answer']}\n" for q in questions(6))
    prompt = lines + "What is 128 + 256? Answer:"
    first = {adapter: ask(server, model, adapter, prompt)[1]["text_output"] for adapter in SAY}
    assert len(set(first.values())) == 3, first
    again = {adapter: ask(server, model, adapter, prompt)[1]["text_output"] for adapter in reversed(SAY)}
    assert again == first


# ---- reading -------------------------------------------------------------------------------------

def test_nobody_waits_for_an_adapter_but_who_asked_for_it(server, repository, tmp_path):
    """Behind adapters with 50 000 tensors each, which take seconds to read and are refused then."""
    large = tmp_path / "large"
    large.mkdir()
    shutil.copy(MODELS / "llama-lora-a" / "adapter_config.json", large)
    header = json.dumps({f"x{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(50_000)})
    (large / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header.encode())
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "adapter_config.json").write_text("{ broken")
    before = {f"large-{n}": str(large) for n in range(8)}
    load(server, add(repository, "lora-slow", {**ADAPTERS, **before, "slow": str(slow)}, max_loras=2))
    waiting = {}
    threads = [threading.Thread(target=lambda name=name: waiting.update({name: ask(server, "lora-slow", name)}))
               for name in (*before, "slow")]
    for thread in threads:
        thread.start()
        time.sleep(0.01)
    for _ in range(3):
        status, answer = ask(server, "lora-slow", None)
        assert status == 200 and answer["text_output"] == text_of("lora.None")

    async def give_up():
        """A client of the slow adapter that goes away before it is there."""
        body = {"text_input": PROMPT, "parameters": {**GREEDY, "lora_name": "slow"}}
        limit = aiohttp.ClientTimeout(total=0.5)
        async with aiohttp.ClientSession(timeout=limit) as session:
            with pytest.raises(asyncio.TimeoutError):
                await session.post(f"{server.url}/v2/models/lora-slow/generate", json=body)

    asyncio.run(give_up())
    assert "slow" not in waiting
    for thread in threads:
        thread.join(LIMIT_S)
    assert all(waiting[name][0] == 400 and "'x" in waiting[name][1]["error"] for name in before), waiting
    status, answer = waiting["slow"]
    assert status == 400 and "LoRA adapter 'slow'" in answer["error"] and "not valid JSON" in answer["error"], answer


def test_a_mended_adapter_works_without_a_restart(server, repository, tmp_path):
    folder = tmp_path / "mended"
    load(server, add(repository, "lora-mended", {"mended": str(folder)}))
    status, answer = ask(server, "lora-mended", "mended")
    assert status == 400 and "adapter_config.json not found" in answer["error"], answer
    folder.symlink_to(MODELS / "llama-lora-a")
    status, answer = ask(server, "lora-mended", "mended")
    assert status == 200 and answer["text_output"] == text_of("lora.sheep")


@pytest.mark.parametrize("damage, words", [
    (lambda config: config.update(r=4), r"has shape [8, 64], expected [4, 64]"),
    (lambda config: config.update(use_dora=True), "DoRA is not supported"),
    (lambda config: config.update(modules_to_save=["lm_head"]), "whole modules cannot be replaced"),
    (lambda config: config.update(bias="all"), "biases of an adapter are not supported"),
])
def test_a_damaged_adapter_says_why(server, repository, tmp_path, damage, words):
    source = MODELS / "llama-lora-a"
    config = json.loads((source / "adapter_config.json").read_text())
    damage(config)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.safetensors").symlink_to(source / "adapter_model.safetensors")
    name = f"lora-damaged-{abs(hash(words)) % 10**9}"
    load(server, add(repository, name, {"bad": str(tmp_path)}))
    status, answer = ask(server, name, "bad")
    assert status == 400 and words in answer["error"], answer
    assert ask(server, name, None)[0] == 200
