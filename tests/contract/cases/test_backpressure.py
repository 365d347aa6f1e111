"""An HTTP thread of the server that is busy for long holds back its own responses, and nobody else's (attack 14)."""
import asyncio
import json
import subprocess
import threading
import time
import urllib.error
import urllib.request

import pytest
import tritonclient.grpc.aio as grpc
from clients import LIMIT_S, PROMPT
from conftest import CONFIG, Repository, load
from server import ROOT, TritonServer, built_library
from transport import tensor

DECOUPLED = CONFIG + "model_transaction_policy { decoupled: true }\n"
STEP_MS = 15
TOKENS = 200
STREAMS = 40
# About a second of parsing for the one HTTP thread.
BODY_BYTES = 60 << 20


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    repository = Repository(tmp_path_factory.mktemp("pace"))
    slow = {"additional_config": {"inject_faults": {"stall_share": 1, "stall_ms": STEP_MS}}}
    with TritonServer(repository.folder, env={"TRITON_VLLM_ALLOW_FAULTS": "1"}, extra=["--http-thread-count=1"]) as server:
        load(server, repository.add("http", config=DECOUPLED, engine=slow))
        load(server, repository.add("grpc", config=DECOUPLED, engine=slow))
        yield server


def busy(server):
    """Seconds for which a large body kept the HTTP thread."""
    body = b'{"text_input": "x", "ignored": [' + b"1," * (BODY_BYTES // 2) + b"1]}"
    started = time.monotonic()
    request = urllib.request.Request(f"{server.url}/v2/models/http/generate", data=body, method="POST",
                                     headers={"Content-Type": "application/json"})
    try:
        urllib.request.urlopen(request, timeout=LIMIT_S).read()
    except urllib.error.HTTPError as refused:
        refused.read()
    return time.monotonic() - started


async def gaps(server, model):
    """Times between the responses of one gRPC stream, after the first."""
    parameters = json.dumps({"temperature": 0, "max_tokens": TOKENS, "ignore_eos": True})
    inputs = [tensor(n, v) for n, v in
              {"text_input": PROMPT, "stream": True, "sampling_parameters": parameters}.items()]

    async def requests():
        yield dict(model_name=model, inputs=inputs)
    times = []
    async with grpc.InferenceServerClient(server.grpc) as client:
        async for _, error in client.stream_infer(requests(), stream_timeout=LIMIT_S):
            assert not error, error
            times.append(time.monotonic())
    return [later - earlier for earlier, later in zip(times, times[1:])]


@pytest.mark.parametrize("model", ["grpc", "http"], ids=["another-model", "same-model"])
def test_a_grpc_stream_does_not_wait_for_an_http_thread(served, model):
    body = json.dumps({"text_input": PROMPT, "stream": True, "return_num_output_tokens": True,
                       "parameters": {"temperature": 0, "max_tokens": TOKENS, "ignore_eos": True}})
    tool = built_library().parent / "examples" / "loadgen"
    crowd = subprocess.Popen([tool, str(served.ports[0]), "/v2/models/http/generate_stream", str(STREAMS), "4", body],
                            stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        time.sleep(0.5)
        stalls = []
        thread = threading.Thread(target=lambda: stalls.append(busy(served)))
        thread.start()
        longest = max(asyncio.run(gaps(served, model)))
        thread.join()
        seen = json.loads(crowd.communicate(timeout=LIMIT_S)[0])
    finally:
        crowd.kill()
    assert stalls[0] > 0.4, "the body did not keep the thread"
    assert longest < max(0.2, stalls[0] / 3), (longest, stalls)
    assert seen["errors"] == 0 and seen["tokens"] == seen["answers"] * TOKENS > 0, "no event is lost"
