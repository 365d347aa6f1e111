"""Case 18: inputs that config.pbtxt names like a sampling parameter are that parameter; what nobody reads is told."""
import asyncio
import json
import time

import aiohttp
import numpy as np
import pytest
import tritonclient.grpc.aio as grpc
from clients import PROMPT, generate, golden_text, grpc_stream, texts
from conftest import CONFIG, Repository, load
from server import TritonServer
from transport import tensor

CASE = """backend: "vllm"
input [ { name: "text_input" data_type: TYPE_STRING dims: [ 1 ] },
        { name: "max_tokens" data_type: TYPE_INT32 dims: [ 1 ] optional: true },
        { name: "temperature" data_type: TYPE_FP32 dims: [ 1 ] optional: true } ]
output [ { name: "text_output" data_type: TYPE_STRING dims: [ 1 ] } ]
instance_group [ { count: 1 kind: KIND_MODEL } ]
"""


def declared(*inputs, more=""):
    rows = [f'{{ name: "{n}" data_type: TYPE_{t} dims: [ {d} ] {o} }}' for n, t, d, o in inputs]
    return CONFIG + f"input [ {', '.join(rows)} ]\n{more}"


OPTIONAL = "optional: true"
ALL = declared(
    ("top_k", "INT64", 1, OPTIONAL), ("n", "UINT32", 1, OPTIONAL), ("temperature", "FP64", 1, OPTIONAL),
    ("ignore_eos", "BOOL", 1, OPTIONAL), ("stop", "STRING", -1, OPTIONAL), ("max_tokens", "INT32", 1, OPTIONAL),
    ("stop_token_ids", "INT32", -1, OPTIONAL), ("seed", "INT64", 1, OPTIONAL), ("top_p", "FP32", 1, OPTIONAL))


def number(name, kind, values, shape=None):
    array = np.array(values, dtype=kind).reshape(shape or [-1])
    made = grpc.InferInput(name, list(array.shape), {"i4": "INT32", "i8": "INT64", "u4": "UINT32", "f4": "FP32",
                                                     "f8": "FP64", "?": "BOOL"}[kind])
    made.set_data_from_numpy(array)
    return made


@pytest.fixture(scope="module")
def typed(server, repository):
    load(server, repository.add("typed", config=ALL))
    return server


def test_the_case(server, repository):
    load(server, repository.add("case", config=CASE))
    body = {"text_input": PROMPT, "max_tokens": 3, "temperature": 0.0}
    status, answer = generate(server, "case", body)
    assert (status, answer["text_output"]) == (200, PROMPT + golden_text(3))
    inputs = [tensor("text_input", PROMPT), number("max_tokens", "i4", [3]), number("temperature", "f4", [0])]
    (outputs, _), = grpc_stream(server, "case", inputs)
    assert texts(outputs) == [PROMPT + golden_text(3)]
    status, answer = generate(server, "case", {**body, "temperature": 9.0})
    assert status == 400 and "temperature must be in [0, 2], got 9.0." in answer["error"]


def test_all_types(typed):
    whole = golden_text()
    stop = whole[8:11]
    inputs = [tensor("text_input", PROMPT), number("top_k", "i8", [1]), number("n", "u4", [2]),
              number("temperature", "f8", [0.5]), number("ignore_eos", "?", [True]), tensor("stop", ["zzz", stop])]
    (outputs, _), = grpc_stream(typed, "typed", inputs)
    assert texts(outputs) == [PROMPT + whole[:whole.index(stop)]] * 2
    ids = [tensor("text_input", PROMPT), number("temperature", "f8", [0]), number("stop_token_ids", "i4", [7, 3255])]
    (outputs, _), = grpc_stream(typed, "typed", ids)
    assert texts(outputs) == [PROMPT + " @"]
    for bad in (number("temperature", "f8", [float("nan")]), number("top_p", "f4", [float("inf")])):
        told, = grpc_stream(typed, "typed", [tensor("text_input", PROMPT), bad])
        assert "must hold finite numbers" in told


def test_who_wins(typed):
    """The tensor for all, then an input of its own, then the request's parameters (which HTTP makes inputs)."""
    def ask(body):
        status, answer = generate(typed, "typed", {"text_input": PROMPT, **body})
        assert status == 200, answer
        return answer["text_output"].removeprefix(PROMPT)
    three, sixteen = golden_text(3), golden_text()
    assert ask({"max_tokens": 3, "parameters": {"temperature": 0}}) == three
    inputs = [tensor("text_input", PROMPT), number("max_tokens", "i4", [3])]
    (outputs, _), = grpc_stream(typed, "typed", inputs, {"max_tokens": 16, "temperature": 0})
    assert texts(outputs) == [PROMPT + three]
    assert ask({"max_tokens": 16, "temperature": 0.0, "sampling_parameters": '{"max_tokens": 3}'}) == three
    assert ask({"max_tokens": 16, "sampling_parameters": '{"temperature": 0}'}) == sixteen


def test_rows_of_a_batch(server, repository):
    config = declared(("max_tokens", "INT32", 1, OPTIONAL), ("temperature", "FP32", 1, OPTIONAL),
                      more="max_batch_size: 4\n")
    load(server, repository.add("rows", config=config))
    prompts = grpc.InferInput("text_input", [2, 1], "BYTES")
    prompts.set_data_from_numpy(np.array([[PROMPT.encode()]] * 2, dtype=np.object_))
    inputs = [prompts, number("max_tokens", "i4", [3, 16], [2, 1]), number("temperature", "f4", [0, 0], [2, 1])]
    (outputs, _), = grpc_stream(server, "rows", inputs)
    assert texts(outputs) == [PROMPT + golden_text(3), PROMPT + golden_text()]


def test_what_nobody_reads_is_told(server, repository):
    config = declared(("max_token", "INT32", 1, OPTIONAL), ("return_logprobs", "STRING", 1, OPTIONAL))
    before = server.log_size()
    load(server, repository.add("unread", config=config))
    log = server.log_since(before)
    assert "declares the input 'max_token', which nobody reads" in log
    assert "the input 'return_logprobs' must be TYPE_BOOL, not TYPE_STRING: requests that send it are refused" in log


@pytest.mark.parametrize("tensors, text", [
    ([("text_input", "INT32", 1, "")], "'text_input' must be TYPE_STRING, not TYPE_INT32"),
    ([("sampling_parameters", "INT32", 1, "")], "'sampling_parameters' must be TYPE_STRING"),
    ([("top_k", "BF16", 1, "")], "'top_k' must be one of"),
], ids=lambda x: x[0][0] if isinstance(x, list) else "")
def test_what_would_fail_every_request_fails_the_load(server, repository, tensors, text):
    status, answer = server.load_model(repository.add(f"fails-{tensors[0][0]}", config=declared(*tensors)))
    assert status >= 400 and text in answer and "every request would be refused" in answer, answer


def test_a_priority_tensor(tmp_path):
    """One slot, held by a slow request: the urgent one goes before those that came earlier."""
    repository = Repository(tmp_path)
    config = declared(("priority", "INT32", 1, OPTIONAL))
    engine = {"max_num_seqs": 1, "additional_config": {"inject_faults": {"stall_share": 1, "stall_ms": 30}}}
    with TritonServer(repository.folder, env={"TRITON_VLLM_ALLOW_FAULTS": "1"}) as server:
        load(server, repository.add("slow", config=config, engine=engine))

        async def ask(session, max_tokens=4, **more):
            body = {"text_input": "Hi", **more, "parameters": {"temperature": 0, "max_tokens": max_tokens}}
            async with session.post(f"{server.url}/v2/models/slow/generate", data=json.dumps(body)) as answer:
                text = await answer.text()
                return answer.status, time.monotonic(), text

        async def run():
            async with aiohttp.ClientSession() as session:
                rest = [asyncio.create_task(ask(session, 20))]
                await asyncio.sleep(0.1)
                for more in ({}, {"priority": 9}, {"priority": 1}, {"priority": -1}):
                    rest.append(asyncio.create_task(ask(session, **more)))
                    await asyncio.sleep(0.02)
                return await asyncio.gather(*rest)
        first, plain, late, urgent, wrong = asyncio.run(run())
        assert [s for s, *_ in (first, plain, late, urgent)] == [200] * 4
        assert urgent[1] < late[1] < plain[1]
        assert wrong[0] == 400 and "'priority'" in wrong[2]
