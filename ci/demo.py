#!/usr/bin/env python3
"""What ci/demo shows once everything is built: the model of model_repository/ answering over three transports."""
import argparse
import asyncio
import http.client
import json
import socket
import sys
import time

import tritonclient.grpc.aio as grpc
from server import ROOT, ServerFailed, TritonServer, free_ports

sys.path.insert(0, str(ROOT / "tests" / "contract"))
from transport import tensor  # noqa: E402

MODEL = "vllm_model"
USUAL_PORTS = [8000, 8001, 8002]
STORY_TOKENS = 60
QUESTION, ANSWER = "What is 128 + 256? Answer:", " 384."


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


def http_answer(server, prompt):
    """Shows the answer, and fails if the default question is not answered right."""
    status, text = server.post(f"v2/models/{MODEL}/generate", request(prompt, False, max_tokens=16, stop="\n"))
    if status != 200:
        raise ServerFailed(f"/generate answered {status}: {text}")
    answer = json.loads(text)["text_output"]
    print(f"\nHTTP /generate\n  {prompt!r} -> {answer!r}", flush=True)
    if prompt == QUESTION and answer != ANSWER:
        raise ServerFailed(f"the answer should be {ANSWER!r}")


def http_stream(server, prompt):
    """Prints the text of each event when it arrives; returns (events, seconds to the first, seconds in all)."""
    connection = http.client.HTTPConnection("127.0.0.1", server.ports[0], timeout=60)
    body = json.dumps(request(prompt, True, max_tokens=STORY_TOKENS))
    print(f"\nHTTP /generate_stream\n  {prompt!r} -> ", end="", flush=True)
    began, first, events = time.monotonic(), None, 0
    connection.request("POST", f"/v2/models/{MODEL}/generate_stream", body)
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


async def grpc_stream(server, prompt):
    inputs = [tensor("text_input", prompt), tensor("stream", True), tensor("exclude_input_in_output", True)]

    async def requests():
        yield dict(model_name=MODEL, inputs=inputs, parameters={"temperature": 0, "max_tokens": STORY_TOKENS})

    print(f"\ngRPC ModelStreamInfer\n  {prompt!r} -> ", end="", flush=True)
    async with grpc.InferenceServerClient(server.grpc) as client:
        async for result, error in client.stream_infer(requests(), stream_timeout=60):
            if error:
                raise ServerFailed(f"the gRPC stream answered {error.message()}")
            print(result.as_numpy("text_output")[0].decode().replace("\n", "\n  "), end="", flush=True)
    print(flush=True)


def show(server, prompts):
    ready_s = time.monotonic() - server.started_s
    http_answer(server, prompts["question"])
    events, first_s, total_s = http_stream(server, prompts["story"])
    asyncio.run(grpc_stream(server, prompts["story"]))
    rate = (events - 1) / (total_s - first_s) if events > 1 else 0
    print(f"\nready {ready_s:.2f} s after the server's start · first token {first_s * 1e3:.1f} ms · "
          f"{rate:.0f} events/s on one stream · {server.resident_bytes() >> 20} MB resident", flush=True)


def curl_line(server, prompt):
    body = json.dumps({"text_input": prompt, "parameters": {"stream": False, "temperature": 0}})
    return f"curl -X POST localhost:{server.ports[0]}/v2/models/{MODEL}/generate -d '{body}'"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the server running and print a curl line")
    parser.add_argument("--repository", default=ROOT / "model_repository")
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--story", default="Once upon a time")
    args = parser.parse_args()
    prompts = {"question": args.question, "story": args.story}
    log = ROOT / "target" / "demo-server.log"
    server = TritonServer(args.repository, control="none", detached=args.keep, log=log, ports=chosen_ports(args.keep))
    try:
        print(f"[demo] stock tritonserver, {server.library.name} as backend \"vllm\", log {log}", flush=True)
        server.start()
        show(server, prompts)
        if args.keep:
            print(f"\nThe server keeps running (stop it with: kill {server.process.pid}). Try:\n"
                  f"  {curl_line(server, prompts['question'])}")
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
