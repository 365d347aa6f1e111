"""Mixed clients that behave badly on purpose, and the books of what became of each request. Used by test_chaos_rounds
(short) and ci/soak (long). It knows HTTP and gRPC, and what is owed; nothing of the engine.

Owed to every request, whatever happens around it: it ends, once, within a limit: with its whole answer, or with an error.
"""
import asyncio
import json
import random
import struct
import time
from collections import Counter

import aiohttp
import numpy as np
import tritonclient.grpc.aio as grpc
from tritonclient.utils import InferenceServerException

from clients import PROMPT
from transport import split_events, tensor

LIMIT_S = 90
MAX_MODEL_LEN = 256
PROMPTS = (PROMPT, "The capital of France is", "a", "one two three four " * 12, "é" * 40)


class Owed(Exception):
    """A promise that was broken."""


def parameters(rng):
    """Sampling parameters of all kinds; one request in eight asks for something illegal."""
    picked = {"max_tokens": rng.choice((1, 3, 16, 60, 200)), "ignore_eos": rng.random() < 0.8}
    picked.update(rng.choice(({"temperature": 0}, {"temperature": 0.9, "seed": rng.randrange(99)},
                              {"temperature": 1.0, "top_p": 0.9, "top_k": 40}, {"repetition_penalty": 1.3})))
    if rng.random() < 0.1:
        picked["stop"] = ","
    if rng.random() < 0.1:
        picked["timeout"] = rng.choice((1, 1000, 100_000))
    if rng.random() < 0.2:
        picked["priority"] = rng.randrange(1, 4)
    if rng.random() < 0.125:
        picked.update(rng.choice(({"temperature": -1}, {"top_p": 7}, {"nonsense": 1}, {"max_tokens": 0})))
    return picked


class Chaos:
    """Clients against one server. `models` come and go; `counts` says what became of the requests."""

    def __init__(self, server, models, seed, grpc_cancels=False):
        self.server, self.models, self.rng = server, models, random.Random(seed)
        # Servers before 25.04 lose a request, or die, when a gRPC stream is cancelled at the wrong moment, whatever
        # the backend (server#7368, #8034): such a server cannot be held to the promises. test_cancel has single ones.
        self.kinds = {self.whole: 4, self.stream: 5, self.leaves: 3, self.grpc_stream: 4, self.lies: 1, self.resets: 1}
        if grpc_cancels:
            self.kinds[self.grpc_cancel] = 2
        self.counts, self.slowest_s = Counter(), 0.0

    async def __aenter__(self):
        timeout = aiohttp.ClientTimeout(total=LIMIT_S)
        self.session = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))
        self.grpc = grpc.InferenceServerClient(self.server.grpc)
        return self

    async def __aexit__(self, *_):
        await self.session.close()
        await self.grpc.close()

    async def one(self):
        """One request of a random kind, to its end."""
        kind = self.rng.choices(list(self.kinds), list(self.kinds.values()))[0]
        began = time.monotonic()
        try:
            what = await asyncio.wait_for(kind(self.rng.choice(self.models)), LIMIT_S)
        except (asyncio.TimeoutError, TimeoutError):
            raise Owed(f"{kind.__name__}: no end within {LIMIT_S} s") from None
        except (aiohttp.ClientError, ConnectionError) as error:
            # The server must not close a connection on a client that did nothing wrong to it.
            raise Owed(f"{kind.__name__}: {type(error).__name__}: {error}") from None
        self.slowest_s = max(self.slowest_s, time.monotonic() - began)
        self.counts[f"{kind.__name__}: {what}"] += 1

    def body(self, stream):
        picked = parameters(self.rng)
        return {"text_input": self.rng.choice(PROMPTS), "stream": stream, "return_finish_reason": True,
                "return_num_output_tokens": True, "return_num_input_tokens": True, "parameters": picked}, picked

    async def whole(self, model):
        body, _ = self.body(False)
        async with self.session.post(f"{self.server.url}/v2/models/{model}/generate", data=json.dumps(body)) as answer:
            text = await answer.text()
        if answer.status == 200 and "error" not in text:
            if json.loads(text)["finish_reason"] not in ("stop", "length"):
                raise Owed(f"an answer without its end: {text}")
            return "answered"
        return self.refusal(text)

    async def stream(self, model):
        body, picked = self.body(True)
        url = f"{self.server.url}/v2/models/{model}/generate_stream"
        async with self.session.post(url, data=json.dumps(body)) as answer:
            text = (await answer.read()).decode()
        if not text.startswith("data:"):
            return self.refusal(text)
        events = split_events(text)
        if any("error" in e for e in events):
            if sum("error" in e for e in events) > 1 or "error" not in events[-1]:
                raise Owed(f"an error that is not the one end: {events}")
            return self.refusal(str(events[-1]))
        ends = [e["finish_reason"] for e in events]
        tokens = sum(e["num_output_tokens"] for e in events)
        if ends.count("None") != len(ends) - 1 or ends[-1] not in ("stop", "length"):
            raise Owed(f"ends {ends}")
        # The model's length may end it earlier.
        room = MAX_MODEL_LEN - events[-1]["num_input_tokens"]
        if ends[-1] == "length" and tokens != min(picked["max_tokens"], room):
            raise Owed(f"{tokens} of {picked['max_tokens']} tokens arrived")
        return "answered"

    async def leaves(self, model):
        """Closes the connection after a few events, or at once."""
        body, _ = self.body(True)
        url = f"{self.server.url}/v2/models/{model}/generate_stream"
        answer = await self.session.post(url, data=json.dumps(body))
        for _ in range(self.rng.randrange(4)):
            await answer.content.readline()
        answer.close()
        return "left"

    def grpc_inputs(self):
        body, picked = self.body(True)
        inputs = [tensor("text_input", body["text_input"]), tensor("stream", self.rng.random() < 0.7)]
        return inputs, picked

    async def requests(self, model, inputs, picked, hold):
        fields = {name: picked[name] for name in ("timeout", "priority") if name in picked}
        rest = {name: value for name, value in picked.items() if name not in fields}
        yield dict(model_name=model, inputs=inputs, parameters=rest, enable_empty_final_response=True, **fields)
        await hold.wait()

    async def grpc_stream(self, model):
        inputs, picked = self.grpc_inputs()
        hold = asyncio.Event()
        finals, outcome = 0, "answered"
        try:
            async for result, error in self.grpc.stream_infer(self.requests(model, inputs, picked, hold)):
                if error:
                    finals, outcome = finals + 1, self.refusal(error.message())
                else:
                    finals += result.get_response().parameters["triton_final_response"].bool_param
                if finals:
                    hold.set()
        except InferenceServerException as error:
            return self.refusal(error.message())
        if finals != 1:
            raise Owed(f"{finals} FINAL responses")
        return outcome

    async def grpc_cancel(self, model):
        inputs, picked = self.grpc_inputs()
        hold = asyncio.Event()
        stream = self.grpc.stream_infer(self.requests(model, inputs, picked, hold))
        reader = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(self.rng.choice((0, 0.001, 0.01, 0.1)))
        stream.cancel()
        hold.set()
        await asyncio.gather(reader, return_exceptions=True)
        return "cancelled"

    async def lies(self, model):
        """A BYTES tensor whose lengths or shape do not fit what it holds."""
        made = grpc.InferInput("text_input", [1], "BYTES")
        made.set_data_from_numpy(np.array([b"x"], dtype=np.object_))
        length = self.rng.choice((0, 2, 1 << 20, 0xffffffff))
        made._raw_content = struct.pack("<I", length) + self.rng.choice((b"", b"x", b"\xff" * 9))
        hold = asyncio.Event()
        hold.set()
        try:
            answers = self.grpc.stream_infer(self.requests(model, [made], {"max_tokens": 2}, hold))
            async for _ in answers:
                pass
        except InferenceServerException:
            pass
        return "heard"

    async def resets(self, _):
        """Half a request, then the connection is gone."""
        _, writer = await asyncio.open_connection("127.0.0.1", self.server.ports[0])
        writer.write(b"POST /v2/models/x/generate HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n{")
        await writer.drain()
        writer.transport.abort()
        return "gone"

    def refusal(self, text):
        """An error has a reason that a person can read."""
        if len(text) < 15 or "panicked" in text.replace("panicked: injected", ""):
            raise Owed(f"an error without a reason: {text!r}")
        for words in ("timeout", "engine failed", "engine gave", "unloaded", "limit", "not ready", "unknown model", "not found"):
            if words in text:
                return f"refused ({words})"
        return "refused"

    async def crowd(self, clients, seconds):
        """`clients` at a time for `seconds`; the first broken promise ends it."""
        until = time.monotonic() + seconds

        async def client():
            while time.monotonic() < until:
                await self.one()
        await asyncio.gather(*(client() for _ in range(clients)))
