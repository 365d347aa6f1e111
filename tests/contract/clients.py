"""Small clients for the tests that are about timing or shapes: HTTP by aiohttp, gRPC by tritonclient."""
import asyncio
import json

import aiohttp
import numpy as np
import tritonclient.grpc.aio as grpc

import golden
from transport import split_events, tensor

PROMPT = "The most dangerous animal is"
LIMIT_S = 60


def golden_text(max_tokens=16):
    """What opt-tiny says after PROMPT, greedily, without the prompt (the first `max_tokens` tokens: 3, 16 or 24)."""
    case = {3: "grpc.requested_outputs", 16: "basic.readme", 24: "prompt.0"}[max_tokens]
    records, _ = golden.load_records("goldens.json")
    record = next(r for r in records if r["id"] == case and r["transport"] == "grpc_stream")
    output = next(o for o in record["response"]["responses"][0]["outputs"] if o["name"] == "text_output")
    return output["data"][0].removeprefix(PROMPT)


async def post(url, path, body):
    """(status, JSON or text) of one request."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=LIMIT_S)) as session:
        async with session.post(f"{url}/v2/models/{path}", data=json.dumps(body)) as answer:
            text = await answer.text()
            try:
                return answer.status, json.loads(text)
            except ValueError:
                return answer.status, text


def generate(server, model, body):
    return asyncio.run(post(server.url, f"{model}/generate", body))


async def sse(session, url, model, body):
    """All events of one /generate_stream request, to the end of the stream."""
    async with session.post(f"{url}/v2/models/{model}/generate_stream", data=json.dumps(body)) as answer:
        return answer.status, split_events((await answer.read()).decode())


def generate_stream(server, model, body):
    async def run():
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=LIMIT_S)) as session:
            return await sse(session, server.url, model, body)
    return asyncio.run(run())


def batch(name, texts):
    """A [b, 1] BYTES tensor."""
    made = grpc.InferInput(name, [len(texts), 1], "BYTES")
    made.set_data_from_numpy(np.array([[t.encode()] for t in texts], dtype=np.object_))
    return made


async def grpc_stream_async(address, model, inputs, parameters=None):
    """[(outputs by name as numpy, is final) or error text] of one streaming request."""
    answers = []

    async def requests():
        yield dict(model_name=model, inputs=inputs, parameters=parameters, enable_empty_final_response=True)

    async with grpc.InferenceServerClient(address) as client:
        async for result, error in client.stream_infer(requests(), stream_timeout=LIMIT_S):
            if error:
                answers.append(error.message())
                continue
            answer = result.get_response()
            outputs = {o.name: result.as_numpy(o.name) for o in answer.outputs}
            answers.append((outputs, answer.parameters["triton_final_response"].bool_param))
    return answers


def grpc_stream(server, model, inputs, parameters=None):
    """`inputs`: {name: bool or str} or ready tensors."""
    made = [tensor(n, v) for n, v in inputs.items()] if isinstance(inputs, dict) else inputs
    return asyncio.run(grpc_stream_async(server.grpc, model, made, parameters))


def texts(outputs, name="text_output"):
    return [t.decode() for t in outputs[name].flatten()]
