"""Clients that were written for the Python backend, step by step: NVIDIA's sample client, the tutorial's, a streaming script."""
import asyncio
import json
import queue

import numpy as np
import pytest
import tritonclient.grpc as blocking
import tritonclient.grpc.aio as grpc
from clients import LIMIT_S, PROMPT, golden_text
from conftest import CONFIG, load
from test_batch import PUBLIC_GUIDE
from test_roles import SMALL, TUTORIAL, renamed

PROMPTS = (PROMPT, "def main(", "The capital of France is")
# As the sample client spells them: text for every number.
SAMPLING = {"temperature": "0", "top_p": "0.95", "max_tokens": "16"}
CANONICAL = ("text_input", "stream", "sampling_parameters", "text_output")


def sample_request(model, names, number, prompt, stream, shape, exclude):
    text, flag, sampling, output = names
    inputs = []
    for name, kind, value in ((text, "BYTES", prompt.encode()), (flag, "BOOL", stream),
                              (sampling, "BYTES", json.dumps(SAMPLING).encode())):
        made = grpc.InferInput(name, shape, kind)
        made.set_data_from_numpy(np.array([value], dtype=bool if kind == "BOOL" else np.object_).reshape(shape))
        inputs.append(made)
    if exclude:
        made = grpc.InferInput("exclude_input_in_output", shape, "BOOL")
        made.set_data_from_numpy(np.array([True]).reshape(shape))
        inputs.append(made)
    return {"model_name": model, "inputs": inputs, "outputs": [grpc.InferRequestedOutput(output)],
            "request_id": str(number), "parameters": SAMPLING if text == "text_input" else None}


async def sample_client(server, model, names, iterations, stream, shape=(1,), exclude=False):
    """{request id: all its texts}: every prompt `iterations` times over one gRPC stream."""
    results = {}

    async def requests():
        for iteration in range(iterations):
            for i, prompt in enumerate(PROMPTS):
                number = len(PROMPTS) * iteration + i
                results[str(number)] = []
                yield sample_request(model, names, number, prompt, stream, list(shape), exclude)

    async with grpc.InferenceServerClient(server.grpc) as client:
        async for result, error in client.stream_infer(requests(), stream_timeout=LIMIT_S):
            assert error is None, error
            texts = result.as_numpy(names[3])
            results[result.get_response().id] += [t.decode() for t in texts.flatten()]
    return results


@pytest.mark.parametrize("stream", [False, True])
def test_the_sample_client(tiny, stream):
    told = asyncio.run(sample_client(tiny, "opt-tiny", CANONICAL, 4, stream))
    assert len(told) == 4 * len(PROMPTS)
    before = "" if stream else PROMPT
    for number, texts in told.items():
        assert (len(texts) > 1) == stream
        assert "".join(texts) == "".join(told[str(int(number) % len(PROMPTS))])
    assert "".join(told["0"]) == before + golden_text()


def test_the_sample_client_excludes_inputs(tiny):
    told = asyncio.run(sample_client(tiny, "opt-tiny", CANONICAL, 1, False, exclude=True))
    assert told["0"] == [golden_text()]


@pytest.mark.parametrize("names, whole", [(TUTORIAL, True), (SMALL, False)], ids=["tutorial", "small"])
def test_the_tutorials_client(server, repository, names, whole):
    model = f"client-{names[0]}"
    load(server, repository.add(model, config=renamed(*names)))
    for stream in (False, True):
        told = asyncio.run(sample_client(server, model, names, 2, stream))
        # The same prompt again; where each response has what is new, a reader that lags gets fewer of them.
        for texts in told["0"], told[str(len(PROMPTS))]:
            if whole:
                assert texts[-1] == PROMPT + golden_text() and (len(texts) > 1) == stream
            else:
                assert "".join(texts) == golden_text()


def test_the_streaming_script_of_the_guide_with_max_batch_size_256(server, repository):
    load(server, repository.add("guide-stream", config=PUBLIC_GUIDE))
    answers = queue.Queue()
    with blocking.InferenceServerClient(server.grpc) as client:
        client.start_stream(callback=lambda result, error: answers.put((result, error)))
        client.async_stream_infer(
            **{k: v for k, v in sample_request("guide-stream", CANONICAL, 1, PROMPT, True, [1, 1], False).items()
               if k != "parameters"}, enable_empty_final_response=True)
        told = ""
        while True:
            result, error = answers.get(timeout=LIMIT_S)
            assert error is None, error
            answer = result.get_response()
            if answer.outputs:
                texts = result.as_numpy("text_output")
                assert texts.shape == (1, 1)
                told += texts[0][0].decode()
            if answer.parameters["triton_final_response"].bool_param:
                break
        client.stop_stream()
    assert told == golden_text()
