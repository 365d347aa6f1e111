"""Attacks of one client, or of bad files, on a server that serves others. Used by test_attacks (a few rounds) and by
`ci/soak attack` (200). Owed whatever comes: each attack is answered once, with an answer or with a reason; the quiet
stream beside says the same text as ever; the process lives.
"""
import asyncio
import contextlib
import json
import os
import random
import shutil
import struct
import threading
import time
from pathlib import Path

import aiohttp
import tritonclient.grpc.aio as grpc
from tritonclient.utils import InferenceServerException, shared_memory

from clients import PROMPT
from conftest import MODELS, Repository
from transport import split_events, tensor

LIMIT_S = 60
METRICS = 'backend: "vllm"\ninstance_group [ { count: 1 kind: KIND_MODEL } ]\n' \
          'parameters { key: "REPORT_CUSTOM_METRICS" value: { string_value: "true" } }\n'
FOREIGN = {"4090": "<|im_end|>", "4091": "<tool_call>"}
QUIET = {"temperature": 0, "max_tokens": 48, "ignore_eos": True}


class Owed(Exception):
    """A promise that was broken."""


def hold(good, what):
    if not good:
        raise Owed(what)


def with_nan(path):
    """Make the weights of the last norm NaN: every logit is."""
    data = bytearray(path.read_bytes())
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + length])
    begin, end = header["model.decoder.final_layer_norm.weight"]["data_offsets"]
    data[8 + length + begin:8 + length + end] = struct.pack("<f", float("nan")) * ((end - begin) // 4)
    path.write_bytes(data)


@contextlib.contextmanager
def rewriting(path, cut_bytes):
    """Meanwhile the file is cut to `cut_bytes` and written whole again, over and over; it is whole at the end."""
    data, stop = path.read_bytes(), threading.Event()

    def rewrite():
        while not stop.is_set():
            with open(path, "r+b") as file:
                file.truncate(cut_bytes)
                file.seek(0)
                file.write(data)
    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        yield
    finally:
        stop.set()
        writer.join()


class Attacks:
    """One server in explicit mode over `folder`, the models it needs, and one method per attack."""

    def __init__(self, folder, seed):
        self.folder, self.rng = Path(folder), random.Random(seed)
        self.repository = Repository(self.folder / "models")
        self.longest_pause_s = self.longest_answer_s = 0.0
        self.counts = {}
        self.models()
        self.all = [self.foreign_token, self.region_too_small, self.hostile_grammar, self.many_stop_strings, self.many_words,
                    self.logits_not_finite, self.reload_in_place, self.adapter_rewritten, self.bad_load, self.weights_rewritten]

    def models(self):
        add = self.repository.add
        add("quiet")
        add("target", config=METRICS)
        add("reloaded", config=METRICS)
        foreign = self.copy("llama-tiny", "foreign")
        path = foreign / "tokenizer_config.json"
        config = json.loads(path.read_text())
        token = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
        config["added_tokens_decoder"].update({i: {"content": text, **token} for i, text in FOREIGN.items()})
        path.write_text(json.dumps(config))
        add("foreign", checkpoint=foreign)
        broken = self.copy("opt-tiny", "broken")
        with_nan(broken / "model.safetensors")
        add("broken", checkpoint=broken)
        self.adapter = self.copy("llama-lora-a", "adapter")
        add("adapted", checkpoint=MODELS / "llama-tiny", engine={"enable_lora": True, "max_lora_rank": 8, "max_cpu_loras": 1},
            files={"1/multi_lora.json": json.dumps({"a": str(self.adapter), "b": str(MODELS / "llama-lora-b")})})
        self.rewritten = self.copy("opt-tiny", "rewritten")
        add("rewritten", checkpoint=self.rewritten)
        add("huge", engine={"device": "cpu", "kv_cache_memory_bytes": 200 * 10**9})
        for name, damage in (("fifo", os.mkfifo), ("endless", lambda path: path.symlink_to("/dev/zero"))):
            damaged = self.copy("opt-tiny", name)
            (damaged / "config.json").unlink()
            damage(damaged / "config.json")
            add(name, checkpoint=damaged)

    def copy(self, model, name):
        return Path(shutil.copytree(MODELS / model, self.folder / name))

    async def start(self, server):
        self.server = server
        for name in ("quiet", "target", "reloaded", "foreign", "broken", "adapted"):
            status, text = await asyncio.to_thread(server.load_model, name)
            hold(status == 200, f"{name} does not load: {text}")
        self.session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=LIMIT_S))
        self.expected = await self.quiet_text()
        return self

    async def quiet_text(self):
        """The quiet client's whole text; measures the longest pause between two events."""
        body = {"text_input": PROMPT, "stream": True, "parameters": QUIET}
        texts, last = [], time.monotonic()
        async with self.session.post(f"{self.server.url}/v2/models/quiet/generate_stream", data=json.dumps(body)) as answer:
            async for line in answer.content:
                if not line.startswith(b"data:"):
                    continue
                now = time.monotonic()
                self.longest_pause_s, last = max(self.longest_pause_s, now - last), now
                texts.append(json.loads(line[5:])["text_output"])
        return "".join(texts)

    async def round(self):
        """Every attack once, in any order, two at a time, with a quiet stream beside."""
        attacks = self.rng.sample(self.all, len(self.all))
        done = asyncio.Event()

        async def quiet():
            while not done.is_set():
                text = await self.quiet_text()
                hold(text == self.expected, f"the quiet stream says {text!r}")

        async def attack(some):
            for one in some:
                began = time.monotonic()
                try:
                    outcome = await asyncio.wait_for(one(), LIMIT_S)
                except TimeoutError:
                    raise Owed(f"{one.__name__}: no end within {LIMIT_S} s") from None
                self.longest_answer_s = max(self.longest_answer_s, time.monotonic() - began)
                what = f"{one.__name__}: {outcome}"
                self.counts[what] = self.counts.get(what, 0) + 1
        beside = asyncio.create_task(quiet())
        try:
            await asyncio.gather(attack(attacks[::2]), attack(attacks[1::2]))
        finally:
            done.set()
            await beside
        hold(self.server.alive(), "the server died: " + self.server.log_tail())

    async def generate(self, model, parameters, text=PROMPT):
        """(status, answer or error text) of one whole request."""
        body = {"text_input": text, "sampling_parameters": json.dumps(parameters)}
        async with self.session.post(f"{self.server.url}/v2/models/{model}/generate", data=json.dumps(body)) as answer:
            text = await answer.text()
            if answer.status != 200:
                hold(15 < len(text) < 2000 and "panicked" not in text, f"an error without a short reason: {text[:300]}")
            return answer.status, text

    async def foreign_token(self):
        status, text = await self.generate("foreign", {"max_tokens": 4}, "please call <tool_call> now")
        hold(status == 400 and "Token id 4097 is out of vocabulary" in text, f"foreign token: {status} {text}")
        status, text = await self.generate("foreign", {"max_tokens": 4})
        hold(status == 200, f"after a foreign token: {text}")
        return status

    async def region_too_small(self):
        """A stream whose output lies in a shared-memory region of 8 bytes."""
        name = f"/region{self.rng.randrange(10**9)}"
        region = shared_memory.create_shared_memory_region(name, name, 8)
        ends = []
        try:
            async with grpc.InferenceServerClient(self.server.grpc) as client:
                await client.register_system_shared_memory(name, name, 8)
                output = grpc.InferRequestedOutput("text_output")
                output.set_shared_memory(name, 8)
                inputs = [tensor("text_input", PROMPT), tensor("stream", True)]

                async def requests():
                    yield dict(model_name="target", inputs=inputs, outputs=[output], enable_empty_final_response=True)
                async for result, error in client.stream_infer(requests(), stream_timeout=20):
                    ends.append(error.message() if error else "answer")
                await self.unregister(client, name)
        finally:
            shared_memory.destroy_shared_memory_region(region)
        errors = [end for end in ends if end != "answer"]
        hold(len(errors) == 1, f"a region that is too small: {ends}")
        return "refused"

    async def unregister(self, client, name):
        """The server lets go of a region a moment after the response."""
        limit = time.monotonic() + 10
        while True:
            try:
                return await client.unregister_system_shared_memory(name)
            except InferenceServerException as error:
                hold("in use" in error.message() and time.monotonic() < limit, f"a region is kept: {error.message()}")
                await asyncio.sleep(0.02)

    def grammars(self):
        letters = "|".join(f'"{chr(0x4e00 + i)}"' for i in range(20_000))
        return {
            "multiple": {"json": {"type": "integer", "multipleOf": 4849845}},
            "alternatives": {"grammar": f"start: ({letters})+"},
            "empty choices": {"choice": [""] * 200_000},
            "required": {"json": {"type": "object", "required": [f"k{i}" for i in range(60_000)]}},
            "nested": {"json": {"const": json.loads("[" * 200 + "]" * 200)}},
            "repeats": {"regex": "((a{1,99}){1,99}){1,99}"},
        }

    async def hostile_grammar(self):
        kind, outputs = self.rng.choice(list(self.grammars().items()))
        status, _ = await self.generate("target", {"max_tokens": 8, "structured_outputs": json.dumps(outputs)})
        return f"{kind}: {status}"

    async def many_stop_strings(self):
        count = self.rng.choice((1_000, 10_000))
        stop = [f"stop{i} " * 3 for i in range(count)]
        status, _ = await self.generate("target", {"max_tokens": 4, "n": 200, "ignore_eos": True, "stop": stop})
        return f"{count}: {status}"

    async def many_words(self):
        key, value = self.rng.choice([("bad_words", [f"word{i}" for i in range(100_000)]),
                                      ("stop_token_ids", [i % 4000 for i in range(1_000_000)]),
                                      ("bad_words", ["x" * 1_000_000]),
                                      ("logit_bias", {str(i): 1.5 for i in range(4000)})])
        status, text = await self.generate("target", {"max_tokens": 4, key: value})
        return f"{key}: {status}"

    async def logits_not_finite(self):
        status, text = await self.generate("broken", {"max_tokens": 4, "temperature": self.rng.choice((0, 1))})
        hold(status != 200, f"NaN weights answer {text}")
        return status

    async def reload_in_place(self):
        """A version takes the place of another under three streams; both report metrics."""
        body = {"text_input": PROMPT, "stream": True, "parameters": {**QUIET, "max_tokens": 24}}
        url = f"{self.server.url}/v2/models/reloaded/generate_stream"
        stop = asyncio.Event()

        async def stream():
            while not stop.is_set():
                async with self.session.post(url, data=json.dumps(body)) as answer:
                    events = split_events((await answer.read()).decode())
                    hold(events and "text_output" in events[-1], f"a stream beside a reload: {events[-1:]}")
        streams = [asyncio.create_task(stream()) for _ in range(3)]
        try:
            for _ in range(3):
                path = self.repository.folder / "reloaded" / "1" / "model.json"
                path.write_text(path.read_text() + " ")
                status, text = await asyncio.to_thread(self.server.load_model, "reloaded")
                hold(status == 200, f"a reload in place: {text}")
        finally:
            stop.set()
            await asyncio.gather(*streams)
        return status

    async def adapter_rewritten(self):
        """An adapter's file is copied over, cut and written again while adapters are read again and again."""
        with rewriting(self.adapter / "adapter_model.safetensors", 100):
            for _ in range(4):
                for name in ("a", "b"):
                    status, text = await self.generate("adapted", {"max_tokens": 2, "lora_name": name})
                    hold(name == "a" or status == 200, f"the adapter beside one that changes: {text}")
        status, text = await self.generate("adapted", {"max_tokens": 2, "lora_name": "a"})
        hold(status == 200, f"an adapter that is whole again: {text}")
        return status

    async def weights_rewritten(self):
        """Weights are cut and written again while they are loaded."""
        with rewriting(self.rewritten / "model.safetensors", 5000):
            for _ in range(3):
                await asyncio.to_thread(self.server.load_model, "rewritten")
                await asyncio.to_thread(self.server.unload_model, "rewritten")
        return "loaded or refused"

    async def bad_load(self):
        name = self.rng.choice(("fifo", "endless", "huge"))
        status, text = await asyncio.to_thread(self.server.load_model, name)
        hold(status == 400 and len(text) > 30, f"{name} loads: {status} {text}")
        return name

    async def end(self):
        """All models go, every one: a request without its FINAL would hold its model for ever."""
        await self.session.close()
        for name in ("quiet", "target", "reloaded", "foreign", "broken", "adapted"):
            await asyncio.to_thread(self.server.unload_model, name)
            limit = time.monotonic() + LIMIT_S
            while await asyncio.to_thread(self.server.model_state, name) != "UNAVAILABLE":
                hold(time.monotonic() < limit, f"{name} is not unloaded after {LIMIT_S} s")
                await asyncio.sleep(0.05)


def run(server, attacks, rounds):
    async def all_rounds():
        await attacks.start(server)
        for _ in range(rounds):
            await attacks.round()
        await attacks.end()
    asyncio.run(all_rounds())
