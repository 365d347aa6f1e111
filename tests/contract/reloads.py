"""Streams that never pause, while a model is loaded again in place: what the test and ci/soak do alike."""
import asyncio
import json
import os
import threading
import time

import aiohttp

from clients import LIMIT_S, PROMPT, golden_text
from transport import split_events

BODY = {"text_input": PROMPT, "stream": True, "parameters": {"temperature": 0, "max_tokens": 24}}


class Streams(threading.Thread):
    """`count` clients that stream one answer after the other; every answer must be whole and right."""

    def __init__(self, server, model, count):
        super().__init__(daemon=True)
        self.server, self.model, self.count = server, model, count
        self.whole, self.wrong, self.done = 0, [], False

    def run(self):
        asyncio.run(self.all())

    async def all(self):
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=LIMIT_S)) as session:
            await asyncio.gather(*(self.loop(session) for _ in range(self.count)))

    async def loop(self, session):
        url = f"{self.server.url}/v2/models/{self.model}/generate_stream"
        right = golden_text(24)
        while not self.done and len(self.wrong) < 3:
            try:
                async with session.post(url, data=json.dumps(BODY)) as answer:
                    status, events = answer.status, split_events((await answer.read()).decode())
                text = "".join(e.get("text_output", "") for e in events if isinstance(e, dict))
                good = status == 200 and text.endswith(right)
                said = events if not good else None
            except (aiohttp.ClientError, TimeoutError) as error:
                good, said, status = False, repr(error), None
            if good:
                self.whole += 1
            elif not self.done:
                self.wrong.append((status, said))

    def stop(self):
        self.done = True
        self.join(LIMIT_S)


def loads_of(server, model):
    """Times that the backend said it loaded this model."""
    return server.log_since().count(f"{model}: loaded in")


def reload(server, repository, model, poll):
    """Change model.json's time and have the model loaded again in place, beside its old version."""
    before = loads_of(server, model)
    file = repository / model / "1" / "model.json"
    stamp = file.stat().st_mtime_ns + 1_000_000_000
    os.utime(file, ns=(stamp, stamp))
    if not poll:
        status, text = server.load_model(model)
        assert status == 200, text
    limit = time.monotonic() + 30
    while loads_of(server, model) == before:
        assert server.alive(), f"the server died\n{server.log_tail()}"
        assert time.monotonic() < limit, f"not loaded again\n{server.log_tail()}"
        time.sleep(0.02)
