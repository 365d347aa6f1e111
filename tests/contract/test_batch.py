"""max_batch_size above 0, decoupled=false, and what the Python backend could not load."""
import asyncio
import json

import numpy as np
import pytest
import tritonclient.grpc.aio as grpc
from clients import PROMPT, batch, generate, generate_stream, golden_text, grpc_stream, post, texts
from conftest import CONFIG, load
from tritonclient.utils import InferenceServerException
from transport import tensor

OTHER = "def main("
GREEDY = {"temperature": 0, "max_tokens": 16}
PUBLIC_GUIDE = """backend: "vllm"
max_batch_size: 256
model_transaction_policy { decoupled: true }
input [
  { name: "text_input" data_type: TYPE_STRING dims: [ -1 ] },
  { name: "stream" data_type: TYPE_BOOL dims: [ 1 ] optional: true },
  { name: "sampling_parameters" data_type: TYPE_STRING dims: [ 1 ] optional: true }
]
output [ { name: "text_output" data_type: TYPE_STRING dims: [ -1 ] } ]
"""


def body(**more):
    return {"text_input": PROMPT, "parameters": GREEDY, **more}


@pytest.fixture(scope="module")
def batched(server, repository):
    load(server, repository.add("batched", config=CONFIG + "max_batch_size: 4\n"))
    return server


@pytest.fixture(scope="module")
def whole(server, repository):
    policy = "model_transaction_policy { decoupled: false }\n"
    load(server, repository.add("whole", config=CONFIG + policy))
    return server


def other_text(server):
    status, answer = generate(server, "batched", {"text_input": OTHER, "parameters": GREEDY})
    assert status == 200, answer
    return answer["text_output"]


def test_a_batched_model_answers_plain_http(batched):
    status, answer = generate(batched, "batched", body())
    assert (status, answer["text_output"]) == (200, PROMPT + golden_text())
    status, events = generate_stream(batched, "batched", body(stream=True))
    assert (status, "".join(e["text_output"] for e in events)) == (200, golden_text())


def test_outputs_get_the_batch_dimension(batched):
    (outputs, final), *rest = grpc_stream(batched, "batched", [batch("text_input", [PROMPT])], GREEDY)
    assert outputs["text_output"].shape == (1, 1) and final and not rest
    assert texts(outputs) == [PROMPT + golden_text()]


def test_each_row_is_a_generation_of_its_own(batched):
    (outputs, final), *rest = grpc_stream(batched, "batched", [batch("text_input", [PROMPT, OTHER])], GREEDY)
    assert outputs["text_output"].shape == (2, 1) and final and not rest
    assert texts(outputs) == [PROMPT + golden_text(), other_text(batched)]


def test_several_rows_cannot_stream(batched):
    stream = grpc.InferInput("stream", [2, 1], "BOOL")
    stream.set_data_from_numpy(np.array([[True], [True]]))
    answers = grpc_stream(batched, "batched", [batch("text_input", [PROMPT, OTHER]), stream], GREEDY)
    assert len(answers) == 1 and isinstance(answers[0], str) and "stream" in answers[0], answers


def test_the_configuration_of_a_public_guide_loads_and_serves(server, repository):
    load(server, repository.add("guide", config=PUBLIC_GUIDE))
    status, answer = generate(server, "guide", body(sampling_parameters=json.dumps(GREEDY)))
    assert (status, answer["text_output"]) == (200, PROMPT + golden_text())


def test_requests_that_the_server_batched_are_answered_one_by_one(server, repository):
    config = CONFIG + "max_batch_size: 8\ndynamic_batching { max_queue_delay_microseconds: 20000 }\n"
    load(server, repository.add("gathered", config=config))

    async def run():
        return await asyncio.gather(*(post(server.url, "gathered/generate", body()) for _ in range(16)))
    for status, answer in asyncio.run(run()):
        assert (status, answer["text_output"]) == (200, PROMPT + golden_text())


def test_without_decoupling_generate_and_infer_work(whole):
    status, answer = generate(whole, "whole", body())
    assert (status, answer["text_output"]) == (200, PROMPT + golden_text())
    request = {"inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [1], "data": [PROMPT]}],
               "parameters": GREEDY}
    status, answer = asyncio.run(post(whole.url, "whole/infer", request))
    assert status == 200, answer
    output = next(o for o in answer["outputs"] if o["name"] == "text_output")
    assert output["data"] == [PROMPT + golden_text()]


def test_without_decoupling_unary_grpc_works(whole):
    async def run():
        async with grpc.InferenceServerClient(whole.grpc) as client:
            return await client.infer("whole", [tensor("text_input", PROMPT)], parameters=GREEDY)
    assert asyncio.run(run()).as_numpy("text_output")[0].decode() == PROMPT + golden_text()


def test_without_decoupling_streaming_is_refused(whole):
    status, answer = generate(whole, "whole", body(stream=True))
    assert status == 400 and "decoupled" in answer["error"], answer

    async def run():
        async with grpc.InferenceServerClient(whole.grpc) as client:
            await client.infer("whole", [tensor("text_input", PROMPT), tensor("stream", True)], parameters=GREEDY)
    with pytest.raises(InferenceServerException, match="decoupled"):
        asyncio.run(run())


def test_without_decoupling_a_bad_request_gets_its_error(whole):
    status, answer = generate(whole, "whole", {"text_input": PROMPT, "parameters": {"temperature": -1}})
    assert status == 400 and "temperature must be" in answer["error"], answer
    assert generate(whole, "whole", body())[0] == 200
