"""Outputs in shared memory: a region that is too small is answered by one error, and the request is over (attack 2).

The gRPC front end delivers a stream's responses in the order in which they were made: one that is made and never sent
keeps all later ones, and the end, from the client.
"""
import asyncio
import json
import os
import time
from pathlib import Path

import pytest
import tritonclient.grpc.aio as grpc
from clients import LIMIT_S, PROMPT, generate, golden_text
from conftest import CONFIG, Repository, load
from server import TritonServer
from transport import tensor

DECOUPLED = CONFIG + "model_transaction_policy { decoupled: true }\n"
WHOLE = CONFIG + "model_transaction_policy { decoupled: false }\n"
SLOW = {"max_num_seqs": 1, "additional_config": {"inject_faults": {"stall_share": 1, "stall_ms": 20}}}
TOO_SMALL = "should be at least"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    repository = Repository(tmp_path_factory.mktemp("shared-memory"))
    with TritonServer(repository.folder, env={"TRITON_VLLM_ALLOW_FAULTS": "1"}) as server:
        load(server, repository.add("streams", config=DECOUPLED))
        load(server, repository.add("whole", config=WHOLE))
        load(server, repository.add("slow", config=DECOUPLED, engine=SLOW))
        yield server


class Region:
    """A region of system shared memory, registered with the server."""

    def __init__(self, server, name, size_bytes):
        self.server, self.name = server, name
        self.path = Path(f"/dev/shm/vllm-test-{os.getpid()}-{name}")
        self.path.write_bytes(bytes(size_bytes))
        self.size_bytes = size_bytes

    def __enter__(self):
        body = {"key": "/" + self.path.name, "offset": 0, "byte_size": self.size_bytes}
        status, text = self.server.post(f"v2/systemsharedmemory/region/{self.name}/register", body)
        assert status == 200, text
        return self

    def __exit__(self, *_):
        self.server.post(f"v2/systemsharedmemory/region/{self.name}/unregister")
        self.path.unlink()

    def text(self):
        data = self.path.read_bytes()
        return data[4:4 + int.from_bytes(data[:4], "little")].decode()


def inputs(stream, max_tokens):
    parameters = {"temperature": 0, "max_tokens": max_tokens, "ignore_eos": True}
    values = {"text_input": PROMPT, "stream": stream, "sampling_parameters": json.dumps(parameters)}
    return [tensor(name, value) for name, value in values.items()]


def stream_into(server, model, region, *, stream, max_tokens):
    """(answers, errors) of one gRPC stream with one request whose text goes to the region."""
    async def run():
        output = grpc.InferRequestedOutput("text_output")
        output.set_shared_memory(region.name, region.size_bytes)

        async def requests():
            yield dict(model_name=model, inputs=inputs(stream, max_tokens), outputs=[output])
        good, errors = 0, []
        async with grpc.InferenceServerClient(server.grpc) as client:
            async for _, error in client.stream_infer(requests(), stream_timeout=LIMIT_S):
                if error:
                    errors.append(error.message())
                else:
                    good += 1
        return good, errors
    return asyncio.run(run())


@pytest.mark.parametrize("stream, size_bytes", [(True, 2), (True, 8), (False, 20)],
                         ids=["no-token-fits", "some-tokens-fit", "one-answer"])
def test_a_decoupled_stream_into_too_small_a_region_ends_with_one_error(served, stream, size_bytes):
    with Region(served, f"small{stream}{size_bytes}", size_bytes) as region:
        good, errors = stream_into(served, "streams", region, stream=stream, max_tokens=24)
        assert len(errors) == 1 and TOO_SMALL in errors[0], errors
        assert (good > 0) == (size_bytes == 8)


def test_a_region_of_good_size_takes_the_answer(served):
    with Region(served, "large", 4096) as region:
        _, errors = stream_into(served, "streams", region, stream=False, max_tokens=16)
        assert not errors and region.text() == PROMPT + golden_text(16)


def test_the_engine_stops_working_for_a_request_whose_answer_cannot_be_written(served):
    with Region(served, "slow", 2) as region:
        started = time.monotonic()
        _, errors = stream_into(served, "slow", region, stream=True, max_tokens=200)
        assert len(errors) == 1 and TOO_SMALL in errors[0], errors
        body = {"text_input": PROMPT, "parameters": {"temperature": 0, "max_tokens": 3}}
        status, _ = generate(served, "slow", body)
        # The first request would hold the only slot for 200 steps of 20 ms.
        assert status == 200 and time.monotonic() - started < 3


def test_whole_answers_by_http_and_grpc_get_the_error_too(served):
    with Region(served, "whole", 20) as region:
        async def ask():
            output = grpc.InferRequestedOutput("text_output")
            output.set_shared_memory(region.name, region.size_bytes)
            async with grpc.InferenceServerClient(served.grpc) as client:
                await client.infer("whole", inputs(False, 16), outputs=[output], client_timeout=LIMIT_S)
        with pytest.raises(grpc.InferenceServerException, match=TOO_SMALL):
            asyncio.run(ask())

        place = {"shared_memory_region": region.name, "shared_memory_byte_size": region.size_bytes}
        status, text = served.post("v2/models/whole/infer", {
            "inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [1], "data": [PROMPT]}],
            "outputs": [{"name": "text_output", "parameters": place}]})
        assert status >= 400 and TOO_SMALL in text, text


def test_models_unload_and_the_server_stops_after_all_that(tmp_path):
    """Their requests are over for the server too: nothing waits for an end that never comes."""
    repository = Repository(tmp_path)
    with TritonServer(repository.folder) as server:
        load(server, repository.add("streams", config=DECOUPLED))
        load(server, repository.add("stays", config=DECOUPLED))
        for model in ("streams", "stays"):
            with Region(server, "small", 2) as region:
                assert stream_into(server, model, region, stream=True, max_tokens=24)[1]
        assert server.unload_model("streams")[0] == 200
        limit = time.monotonic() + 20
        while server.model_state("streams") != "UNAVAILABLE":
            assert time.monotonic() < limit, server.model_state("streams")
            time.sleep(0.05)
