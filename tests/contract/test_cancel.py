"""Clients that give up, waiting and running, and models that are unloaded under load: the recorded cases and more.

The model is slow on purpose (random weights by load_format "dummy"), so that a request outlives the test's moves.
"""
import asyncio
import json
import queue
import shutil
import time

import aiohttp
import golden
import pytest
import tritonclient.grpc
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


def recorded(case):
    """The record, and how often it has each of the log lines."""
    records, _ = golden.load_records("goldens_cancel.json")
    record = next(r for r in records if r["id"] == f"cancel.{case}")
    return record, ["".join(record["log"]).count(line) for line in SEEN]


@pytest.mark.parametrize("case", ["grpc_stream1", "grpc_stream0"])
def test_a_recorded_cancellation_of_a_grpc_stream(slow, case):
    record, lines = recorded(case)
    want, got = record["response"]["got"], []
    before = want.count("resp")
    offset = slow.log_size()

    async def run():
        async def requests():
            inputs = [tensor(name, value) for name, value in record["inputs"].items()]
            yield dict(model_name="slow", inputs=inputs, parameters=LONG)
            await asyncio.sleep(LIMIT_S)
        async with grpc.InferenceServerClient(slow.grpc) as client:
            stream = client.stream_infer(requests())
            while len(got) < before:
                _, error = await anext(stream)
                assert error is None, error
                got.append("resp")
            waiting = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0.3)
            if before == 0:
                assert not waiting.done()
                waiting.cancel()
                await asyncio.wait([waiting])
                got.append("task cancelled")
            got.append({"cancel()": stream.cancel()})
            if before > 0:
                try:
                    while True:
                        await waiting
                        waiting = asyncio.ensure_future(anext(stream))
                except asyncio.CancelledError:
                    got.append("CancelledError")
            await until(lambda: cancels_since(slow, offset) == lines, "no log lines of the cancellation")
    asyncio.run(run())
    assert got == want


@pytest.mark.parametrize("case", ["http_disconnect_stream1", "http_disconnect_stream0"])
def test_a_recorded_disconnect(slow, case):
    record, lines = recorded(case)
    events = record["events_before_close"]
    parameters = {**LONG, "max_tokens": 240} if events == 0 else LONG
    offset = slow.log_size()

    async def run():
        async with aiohttp.ClientSession() as session:
            if events:
                (await first_events(session, slow, "slow", events)).close()
            else:
                # The server notices only when it writes the answer: the next request waits for all of it.
                plain = asyncio.ensure_future(post(slow.url, "slow/generate", body(False, parameters)))
                await asyncio.sleep(0.3)
                assert not plain.done()
                plain.cancel()
        if events == 0:
            assert (await post(slow.url, "slow/generate", body(False, SHORT)))[0] == 200
        await until(lambda: cancels_since(slow, offset) == lines, "not the log lines of the record")
    asyncio.run(run())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_nvidias_cancellation(slow, stream, as_tensor):
    """Their test, its synchronous client and its parameters as text: one CANCELLED, nothing behind it, both log lines."""
    parameters = {"temperature": "0", "top_p": "1", "max_tokens": "1500"}
    inputs = {"text_input": PROMPT, "stream": stream, "exclude_input_in_output": True}
    if as_tensor:
        inputs["sampling_parameters"] = json.dumps(parameters)
    ends, offset = queue.Queue(), slow.log_size()
    with tritonclient.grpc.InferenceServerClient(slow.grpc) as client:
        client.start_stream(callback=lambda result, error: ends.put(error) if error or not stream else None)
        client.async_stream_infer(model_name="slow", inputs=[tensor(n, v) for n, v in inputs.items()],
                                  parameters=None if as_tensor else parameters)
        time.sleep(0.5)
        client.stop_stream(cancel_requests=True)
    assert ends.get(timeout=LIMIT_S).status() == "StatusCode.CANCELLED"
    asyncio.run(until(lambda: cancels_since(slow, offset) == [1, 1], "no log lines of the cancellation"))
    assert ends.empty()


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
    record = recorded("unload_in_flight")[0]["response"]
    engine = {"load_format": "dummy", "max_model_len": 4096, "max_num_seqs": 8}
    load(server, repository.add("leaving", checkpoint=checkpoint, engine=engine))

    async def run():
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=LIMIT_S)) as session:
            flights = [asyncio.create_task(sse(session, server.url, "leaving", body(True, SHORT))) for _ in range(4)]
            flights += [asyncio.create_task(post(server.url, "leaving/generate", body(False, SHORT))) for _ in range(4)]
            await asyncio.sleep(0.2)
            status, text = await asyncio.to_thread(server.unload_model, "leaving")
            assert (status, text) == (record["unload"]["status"], record["unload"]["raw"])
            late = await post(server.url, "leaving/generate", body(False, SHORT))
            return late, await asyncio.gather(*flights)

    late, flights = asyncio.run(run())
    refusal = record["late_request"]
    assert late == (refusal["status"], json.loads(refusal["raw"].replace("unl-tiny", "leaving")))
    assert all(r["status"] == 200 for r in record["in_flight"])
    for answer in flights[:4]:
        assert answer[0] == 200 and all("error" not in e for e in answer[1]), answer
    for answer in flights[4:]:
        assert answer[0] == 200 and answer[1]["text_output"] == "".join(e["text_output"] for e in flights[0][1])
    limit = time.monotonic() + LIMIT_S
    while server.model_state("leaving") != "UNAVAILABLE":
        assert time.monotonic() < limit, server.log_tail()
        time.sleep(0.05)
