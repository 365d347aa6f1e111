"""Clients that give up, waiting and running, and models that are unloaded under load.

A client that leaves a plain /generate is not tested: the server notices only when it writes the answer.
The model is slow on purpose (random weights by load_format "dummy"), so that a request outlives the test's moves.
"""
import asyncio
import json
import shutil
import time

import aiohttp
import pytest
import tritonclient.grpc.aio as grpc
from clients import LIMIT_S, PROMPT, post, sse
from conftest import MODELS, load
from transport import tensor

SEEN = ("[vllm] Cancelling the request", "[vllm] Successfully cancelled the request")
LONG = {"temperature": 0, "max_tokens": 3500, "ignore_eos": True}
SHORT = {"temperature": 0, "max_tokens": 20, "ignore_eos": True}
SLOW = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 768, "intermediate_size": 2048,
        "num_hidden_layers": 8, "num_attention_heads": 12, "num_key_value_heads": 12, "vocab_size": 4096,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 2, "torch_dtype": "float32"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """config.json and tokenizer without weights."""
    folder = tmp_path_factory.mktemp("slow")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"):
        shutil.copy(MODELS / "llama-tiny" / name, folder)
    (folder / "config.json").write_text(json.dumps(SLOW))
    return folder


@pytest.fixture(scope="module")
def slow(server, repository, checkpoint):
    """`slow` runs one request at a time: a second one waits."""
    engine = {"load_format": "dummy", "max_model_len": 4096, "max_num_seqs": 1}
    load(server, repository.add("slow", checkpoint=checkpoint, engine=engine))
    return server


async def until(condition, what):
    limit = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < limit, what
        await asyncio.sleep(0.02)


def cancels_since(server, offset):
    log = server.log_since(offset)
    return [log.count(line) for line in SEEN]


def body(stream, parameters):
    return {"text_input": PROMPT, "stream": stream, "exclude_input_in_output": True, "parameters": parameters}


async def first_events(session, server, model, count):
    """An open stream after its first `count` events; closing the response is the disconnect."""
    answer = await session.post(f"{server.url}/v2/models/{model}/generate_stream", data=json.dumps(body(True, LONG)))
    seen = 0
    async for line in answer.content:
        seen += line.startswith(b"data:")
        if seen == count:
            return answer
    raise AssertionError("the stream ended by itself")


def test_grpc_stream_cancelled_while_running(slow):
    offset = slow.log_size()

    async def run():
        async def requests():
            inputs = [tensor("text_input", PROMPT), tensor("stream", True)]
            yield dict(model_name="slow", inputs=inputs, parameters=LONG)
            await asyncio.sleep(LIMIT_S)
        async with grpc.InferenceServerClient(slow.grpc) as client:
            stream, seen = client.stream_infer(requests()), 0
            async for result, error in stream:
                assert error is None, error
                seen += 1
                if seen == 3:
                    break
            assert stream.cancel()
            await until(lambda: cancels_since(slow, offset) == [1, 1], "no log lines of the cancellation")
    asyncio.run(run())


def test_http_stream_closed_while_running(slow):
    offset = slow.log_size()

    async def run():
        async with aiohttp.ClientSession() as session:
            answer = await first_events(session, slow, "slow", 3)
            answer.close()
            await until(lambda: cancels_since(slow, offset) == [1, 1], "no log lines of the cancellation")
    asyncio.run(run())


def test_a_waiting_request_is_cancelled_while_another_runs_on(slow):
    offset = slow.log_size()

    async def run():
        async def requests():
            yield dict(model_name="slow", inputs=[tensor("text_input", PROMPT)], parameters=SHORT)
            await asyncio.sleep(LIMIT_S)
        async with aiohttp.ClientSession() as session, grpc.InferenceServerClient(slow.grpc) as client:
            running = await first_events(session, slow, "slow", 3)
            waiting = client.stream_infer(requests())
            answer = asyncio.ensure_future(anext(waiting))
            await asyncio.sleep(0.3)
            assert not answer.done()
            assert waiting.cancel()
            await until(lambda: cancels_since(slow, offset) == [1, 1], "the waiting request was not cancelled")
            answer.cancel()
            assert await running.content.readline() and not running.content.at_eof()
            running.close()
            await until(lambda: cancels_since(slow, offset) == [2, 2], "the running request was not cancelled")
    asyncio.run(run())


def test_after_a_cancellation_the_slot_is_free(slow):
    async def run():
        async with aiohttp.ClientSession() as session:
            (await first_events(session, slow, "slow", 1)).close()
        return await post(slow.url, "slow/generate", body(False, SHORT))
    status, answer = asyncio.run(run())
    assert status == 200 and answer["text_output"]


def test_unload_lets_requests_in_flight_finish(server, repository, checkpoint):
    engine = {"load_format": "dummy", "max_model_len": 4096, "max_num_seqs": 8}
    load(server, repository.add("leaving", checkpoint=checkpoint, engine=engine))

    async def run():
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=LIMIT_S)) as session:
            flights = [asyncio.create_task(sse(session, server.url, "leaving", body(True, SHORT))) for _ in range(4)]
            flights += [asyncio.create_task(post(server.url, "leaving/generate", body(False, SHORT))) for _ in range(4)]
            await asyncio.sleep(0.2)
            status, _ = await asyncio.to_thread(server.unload_model, "leaving")
            late = await post(server.url, "leaving/generate", body(False, SHORT))
            return status, late, await asyncio.gather(*flights)

    status, late, flights = asyncio.run(run())
    assert status == 200
    assert late[0] in (400, 404) and "leaving" in late[1]["error"], late
    for answer in flights[:4]:
        assert answer[0] == 200 and all("error" not in e for e in answer[1]), answer
    for answer in flights[4:]:
        assert answer[0] == 200 and answer[1]["text_output"] == "".join(e["text_output"] for e in flights[0][1])
    limit = time.monotonic() + LIMIT_S
    while server.model_state("leaving") != "UNAVAILABLE":
        assert time.monotonic() < limit, server.log_tail()
        time.sleep(0.05)
