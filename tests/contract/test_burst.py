"""Many streams at once, unthrottled. The stock server loses HTTP responses of a backend that sends too fast:
the backend must pace itself so that no event and no end of a stream is ever lost."""
import asyncio
import json
import os
import subprocess
import time
from pathlib import Path

import aiohttp
from clients import LIMIT_S, PROMPT, generate, grpc_stream_async, sse, texts
from conftest import load
from server import ROOT
from transport import tensor

STREAMS = 128
TOKENS = 64
PARAMETERS = {"temperature": 0, "max_tokens": TOKENS, "ignore_eos": True}
BODY = {"text_input": PROMPT, "stream": True, "return_num_output_tokens": True, "return_finish_reason": True,
        "parameters": PARAMETERS}


def whole_text(server):
    status, answer = generate(server, "opt-tiny", {
        "text_input": PROMPT, "exclude_input_in_output": True, "parameters": PARAMETERS})
    assert status == 200, answer
    return answer["text_output"]


def test_every_http_stream_ends_and_is_whole(tiny):
    expected = whole_text(tiny)

    async def burst():
        timeout = aiohttp.ClientTimeout(total=LIMIT_S)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
            return await asyncio.gather(*(sse(session, tiny.url, "opt-tiny", BODY) for _ in range(STREAMS)))

    for status, events in asyncio.run(burst()):
        assert status == 200
        assert "".join(e["text_output"] for e in events) == expected
        assert sum(e["num_output_tokens"] for e in events) == TOKENS
        assert [e["finish_reason"] for e in events][-1] == "length"
        assert all(e["finish_reason"] == "None" for e in events[:-1])


def test_every_grpc_stream_has_one_final(tiny):
    expected = whole_text(tiny)
    inputs = [tensor("text_input", PROMPT), tensor("stream", True), tensor("return_num_output_tokens", True)]

    async def burst():
        return await asyncio.gather(*(
            grpc_stream_async(tiny.grpc, "opt-tiny", inputs, PARAMETERS) for _ in range(STREAMS)))

    for answers in asyncio.run(burst()):
        assert [final for _, final in answers].count(True) == 1 and answers[-1][1]
        filled = [outputs for outputs, _ in answers if outputs]
        assert "".join(texts(o)[0] for o in filled) == expected
        assert sum(int(o["num_output_tokens"][0]) for o in filled) == TOKENS


def test_nothing_is_lost_under_pressure_and_nothing_leaks(server, repository):
    load(server, repository.add("pressed"))
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    tool = ROOT / target / "release" / "examples" / "loadgen"
    body = json.dumps({"text_input": PROMPT, "stream": True, "parameters": {"temperature": 0, "max_tokens": 16}})
    port = str(server.ports[0])
    for clients in (STREAMS, 4 * STREAMS):
        out = subprocess.run([tool, port, "/v2/models/pressed/generate_stream", str(clients), "3", body],
                             capture_output=True, text=True, timeout=2 * LIMIT_S, check=True)
        result = json.loads(out.stdout)
        assert result["errors"] == 0 and result["answers"] >= clients, result
    # A request whose end was lost would keep the model from unloading.
    assert server.unload_model("pressed")[0] == 200
    limit = time.monotonic() + LIMIT_S
    while server.model_state("pressed") != "UNAVAILABLE":
        assert time.monotonic() < limit, server.log_tail()
        time.sleep(0.05)
