"""Attacks 7, 9, 10, 11 and 16: one request's work and its answers are bounded, and nobody beside it waits for it."""
import asyncio
import json
import time
from pathlib import Path

import aiohttp
import pytest
from clients import PROMPT, generate, golden_text, grpc_stream, post
from conftest import Repository, load
from server import TritonServer

PREFIX = "Error generating stream: "
# Of a machine that does ten other things; what failed took ten times as long.
PATIENT_S = 8
PAUSE_S = 2.5


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    repository = Repository(tmp_path_factory.mktemp("bounded"))
    with TritonServer(repository.folder) as running:
        load(running, repository.add("opt-tiny", engine={"max_logprobs": -1}))
        yield running
        assert running.alive(), running.log_tail()


def sampled(**parameters):
    body = {"text_input": "Hi", "sampling_parameters": json.dumps({"temperature": 1, "max_tokens": 2, **parameters})}
    return json.dumps(body).encode()


async def beside(server, body):
    """What a request does to others: (its status and text, longest pause of a stream, wait of a newcomer), seconds."""
    times = []
    timeout = aiohttp.ClientTimeout(total=110)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        url = f"{server.url}/v2/models/opt-tiny"
        quiet = {"text_input": PROMPT, "stream": True, "parameters": {"temperature": 0, "max_tokens": 240, "ignore_eos": True}}

        async def stream():
            async with session.post(f"{url}/generate_stream", data=json.dumps(quiet)) as answer:
                assert answer.status == 200
                # From here on, since a short stream may come in one piece.
                times.append(time.monotonic())
                async for _ in answer.content.iter_any():
                    times.append(time.monotonic())

        async def attack():
            async with session.post(f"{url}/generate", data=body) as answer:
                return answer.status, await answer.text()

        reading = asyncio.create_task(stream())
        while not times:
            await asyncio.sleep(0.01)
        attacking = asyncio.create_task(attack())
        # Behind it in every queue, but on a connection of its own.
        await asyncio.sleep(0.3)
        start = time.monotonic()
        status, answer = await post(server.url, "opt-tiny/generate", {
            "text_input": PROMPT, "exclude_input_in_output": True, "parameters": {"temperature": 0, "max_tokens": 3}})
        newcomer_s = time.monotonic() - start
        assert (status, answer["text_output"]) == (200, golden_text(3))
        outcome = await attacking
        await reading
    return outcome, max(b - a for a, b in zip(times, times[1:])), newcomer_s


STRINGS = [f"<{i:07} never comes up>" for i in range(10_000)]
ATTACKS = {
    "7: strings times sequences": (dict(n=4000, stop=STRINGS), None),
    "10: a long string": (dict(n=2000, max_tokens=16, stop="y" * 100_000), None),
    "7: more strings": (dict(n=4000, stop=[f"{i} no" for i in range(60_000)]), "max-stop-strings"),
    "10: a million strings": (dict(stop=["x"] * 1_000_000), "max-stop-strings"),
    "10: a huge string": (dict(stop="x" * (4 << 20)), "max-stop-bytes"),
    "9: bad words": (dict(bad_words=[f"w{i}" for i in range(300_000)]), "max-bad-words"),
    "10: a long bad word": (dict(bad_words=["x" * (4 << 20)]), "max-bad-words-bytes"),
    "9: many bad words": (dict(bad_words=[f"w{i}" for i in range(4_000)], n=60), None),
    "9: stop ids": (dict(stop_token_ids=list(range(1_000_000)), n=60), "max-stop-token-ids"),
    "16: patterns": (dict(n=4000, max_tokens=200, repetition_detection={
        "max_pattern_size": 10**6, "min_pattern_size": 1, "min_count": 2}), "max_pattern_size"),
    "allowed ids": (dict(allowed_token_ids=[5] * 1_000_000), "more than the vocabulary's 4096"),
    "biases": (dict(logit_bias={str(i): 1 for i in range(100_000)}), "max-logit-biases"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_others_do_not_wait(server, name):
    parameters, refused = ATTACKS[name]
    body = sampled(**parameters)
    before = server.resident_bytes()
    (status, text), pause_s, newcomer_s = asyncio.run(beside(server, body))
    if refused:
        assert status == 400 and PREFIX in text and refused in text and len(text) < 600, text[:600]
    else:
        assert status == 200, text[:600]
    assert pause_s < PAUSE_S and newcomer_s < PATIENT_S, (pause_s, newcomer_s)
    assert server.resident_bytes() - before < 500 << 20


def test_logprobs_of_the_whole_vocabulary(tmp_path):
    """Attack 16: the answer would hold n x tokens x vocabulary of them."""
    repository = Repository(tmp_path)
    limits = {"max-logprob-entries": 100_000}
    with TritonServer(repository.folder, backend_config=limits) as server:
        load(server, repository.add("opt-tiny", engine={"max_logprobs": -1}))

        def ask(**parameters):
            body = {"text_input": "Hi", "return_logprobs": True, "sampling_parameters": json.dumps(
                {"temperature": 1, "seed": 1, "ignore_eos": True, "logprobs": -1, **parameters})}
            return generate(server, "opt-tiny", body)
        status, answer = ask(n=50, max_tokens=16)
        assert status == 400 and "more than 100000 logprobs" in answer["error"], answer
        assert "max-logprob-entries" in answer["error"]
        status, answer = ask(n=1, max_tokens=4)
        assert status == 200 and len(json.loads(answer["logprobs"])) == 4


def refusal(server, inputs, parameters):
    answers = grpc_stream(server, "opt-tiny", inputs, parameters)
    assert len(answers) == 1 and isinstance(answers[0], str), answers
    return answers[0]


@pytest.mark.parametrize("name", ["temperature", "top_p", "max_tokens", "stop", "ignore_eos", "foo"])
def test_doubles_that_are_no_numbers(server, name):
    """Attack 10: they were taken as not given."""
    for value, shown in ((float("nan"), "nan"), (float("inf"), "inf"), (float("-inf"), "-inf")):
        text = refusal(server, {"text_input": PROMPT}, {name: value})
        assert text == f"{PREFIX}parameter '{name}' must be a finite number, got {shown}."


def test_nul_is_a_character(server):
    """Attack 10. Texts of request parameters end at a NUL in the server; those of tensors are ours."""
    whole = golden_text()
    for stop in ("e\0zz", whole[3] + "\0", "\0"):
        body = {"text_input": PROMPT, "exclude_input_in_output": True,
                "sampling_parameters": json.dumps({"temperature": 0, "stop": stop})}
        status, answer = generate(server, "opt-tiny", body)
        assert (status, answer["text_output"]) == (200, whole)
    status, answer = generate(server, "opt-tiny", {"text_input": PROMPT, "sampling_parameters": '{"a\\u0000b": 1}'})
    assert status == 400 and answer["error"].endswith("Unexpected keyword argument 'a\\x00b'"), answer


LONG = "y" * (1 << 20)
ECHOES = {
    "key": {LONG: 1}, "number": {"temperature": LONG}, "integer": {"n": LONG}, "lora_name": {"lora_name": LONG},
    "ids": {"allowed_token_ids": ["y"] * 4000}, "stop ids": {"stop_token_ids": ["y"] * 16_000},
    "bias": {"logit_bias": {LONG: 1}}, "structured": {"structured_outputs": LONG},
    "schema": {"structured_outputs": {"json": {"type": LONG}}}, "regex": {"structured_outputs": {"regex": "(" + LONG[:30_000]}},
    "repetition": {"repetition_detection": LONG}, "interval": {"stream_interval": LONG}, "best_of": {"best_of": LONG},
}


@pytest.mark.parametrize("name", ECHOES)
def test_refusals_are_short(server, name):
    """Attack 11: over unary gRPC a long error is another error, and a log fills."""
    before = server.log_size()
    status, answer = generate(server, "opt-tiny", {"text_input": "Hi", "sampling_parameters": json.dumps(ECHOES[name])})
    assert status == 400 and len(answer["error"]) < 2500, len(answer["error"])
    told, = grpc_stream(server, "opt-tiny", {"text_input": "Hi", "sampling_parameters": json.dumps(ECHOES[name])})
    assert told == answer["error"]
    assert server.log_size() - before < 10_000, server.log_since(before)[:3000]


def test_a_name_forges_no_log_line(tmp_path):
    """Attack 11, on a server that does not escape what it logs."""
    adapters = Path(__file__).resolve().parents[2] / "goldens" / "models"
    repository = Repository(tmp_path)
    with TritonServer(repository.folder, version="0.5.5") as server:
        lora = {"enable_lora": True, "max_lora_rank": 16}
        name = repository.add("lora", checkpoint=adapters / "llama-tiny", engine=lora)
        (repository.folder / name / "1" / "multi_lora.json").write_text(json.dumps({"a": str(adapters / "llama-lora-a")}))
        load(server, name)
        before = server.log_size()
        forged = "x\nE0101 00:00:00.000000 1 server.cc:1] forged\n"
        body = {"text_input": "Hi", "sampling_parameters": json.dumps({"lora_name": forged})}
        status, answer = generate(server, name, body)
        assert status == 400 and "is not supported, we currently support ['a']" in answer["error"], answer
        log = server.log_since(before)
        assert "forged" in log and not any(line.startswith("E0101 00:00:00") for line in log.splitlines()), log
