"""Sends one recorded request to a server and writes the answer down in the form of the goldens.

Used by replay.py. It knows HTTP (aiohttp) and gRPC (tritonclient), and nothing about what is right.
"""
import base64
import json
import re

import aiohttp
import numpy as np
import tritonclient.grpc.aio as grpc
from tritonclient.utils import InferenceServerException

LIMIT_S = 60
NUMPY = {"INT32": np.int32, "BOOL": np.bool_, "BYTES": np.object_}


def parsed(text):
    try:
        return json.loads(text)
    except ValueError:
        return None


def split_events(text):
    """The data of each server-sent event."""
    events = []
    for block in re.split(r"\r?\n\r?\n", text):
        if not block.strip():
            continue
        data = parsed(block[5:]) if block.startswith("data:") else None
        events.append(data if data is not None else {"raw": block})
    return events


def tensor(name, value):
    """An input tensor from the short forms of the records: bool, str, list of str, {b64}, {dtype, shape, data}."""
    if isinstance(value, dict) and "dtype" in value:
        kind = value["dtype"]
        array = np.array(value["data"], dtype=NUMPY[kind]).reshape(value["shape"])
    elif isinstance(value, dict):
        kind, array = "BYTES", np.array([base64.b64decode(value["b64"])], dtype=np.object_)
    elif isinstance(value, bool):
        kind, array = "BOOL", np.array([value])
    else:
        texts = value if isinstance(value, list) else [value]
        kind, array = "BYTES", np.array([str(t).encode() for t in texts], dtype=np.object_)
    made = grpc.InferInput(name, list(array.shape), kind)
    made.set_data_from_numpy(array)
    return made


def plain(item):
    return item.decode("utf-8", "backslashreplace") if isinstance(item, bytes) else item.item()


def written_answer(result):
    """A gRPC response as plain JSON values."""
    answer = result.get_response()
    outputs = []
    for output in answer.outputs:
        array = result.as_numpy(output.name)
        data = None if array is None else [plain(x) for x in array.flatten()]
        outputs.append({"name": output.name, "datatype": output.datatype, "shape": list(output.shape), "data": data})
    parameters = {k: getattr(v, v.WhichOneof("parameter_choice")) for k, v in sorted(answer.parameters.items())}
    return {"id": answer.id, "model_name": answer.model_name, "model_version": answer.model_version,
            "parameters": parameters, "outputs": outputs}


def written_error(error):
    return {"message": error.message(), "status": error.status()}


class Sender:
    """An open HTTP session and gRPC channel: `async with Sender(...) as s: await s.send(record)`."""

    def __init__(self, url, grpc_address, model, substitutions=None):
        self.url, self.grpc_address, self.model = url, grpc_address, model
        self.substitutions = substitutions or {}

    async def __aenter__(self):
        self.session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=LIMIT_S))
        self.client = grpc.InferenceServerClient(self.grpc_address)
        return self

    async def __aexit__(self, *_):
        await self.session.close()
        await self.client.close()

    def filled(self, value):
        """`value` with the place holders of the record replaced (token ids, prompts of an exact length)."""
        if isinstance(value, dict):
            return {k: self.filled(v) for k, v in value.items()}
        if isinstance(value, list):
            return [self.filled(v) for v in value]
        if not isinstance(value, str):
            return value
        if value in self.substitutions:
            return self.substitutions[value]
        for name, replacement in self.substitutions.items():
            value = value.replace(json.dumps(name), json.dumps(replacement))
        return value

    async def send(self, record):
        model = record.get("model", self.model)
        how = record["transport"]
        if how in ("generate", "generate_stream"):
            body = self.filled(record["inputs"])
            if record["params"]:
                body["parameters"] = self.filled(record["params"])
            return await self.http("POST", f"v2/models/{model}/{how}", json.dumps(body).encode())
        if how in ("raw", "post"):
            body = record["body"].encode() if "body" in record else base64.b64decode(record["body_b64"])
            return await self.http("POST", record["path"].format(m=model), body)
        if how == "get":
            return await self.http("GET", record["path"].format(m=model))
        if how == "grpc_meta":
            return await self.metadata(record["call"], model)
        if how == "grpc_infer":
            return await self.infer(record, model)
        assert how == "grpc_stream", how
        return await self.stream(record, model)

    async def http(self, method, path, body=None):
        headers = {"Content-Type": "application/json"}
        async with self.session.request(method, f"{self.url}/{path}", data=body, headers=headers) as answer:
            text = (await answer.read()).decode("utf-8", "backslashreplace")
            out = {"status": answer.status, "content_type": answer.headers.get("Content-Type")}
            if (out["content_type"] or "").startswith("text/event-stream"):
                out["events"] = split_events(text)
                return {**out, "n_events": len(out["events"])}
            out["raw"] = text
            if parsed(text) is not None:
                out["json"] = parsed(text)
            return out

    async def metadata(self, call, model):
        calls = {
            "server_metadata": lambda c: c.get_server_metadata(as_json=True),
            "model_metadata": lambda c: c.get_model_metadata(model, as_json=True),
            "model_config": lambda c: c.get_model_config(model, as_json=True),
            "repository_index": lambda c: c.get_model_repository_index(as_json=True),
        }
        try:
            if call == "model_ready":
                return {"ready": await self.client.is_model_ready(model)}
            return await calls[call](self.client)
        except InferenceServerException as error:
            return {"error": written_error(error)}

    async def infer(self, record, model):
        tensors = [tensor(n, v) for n, v in self.filled(record["inputs"]).items()]
        try:
            return written_answer(await self.client.infer(model, tensors, parameters=self.filled(record["params"])))
        except InferenceServerException as error:
            return {"error": written_error(error)}

    async def stream(self, record, model):
        count = record.get("repeat", 1)
        outputs = [grpc.InferRequestedOutput(n) for n in record.get("outputs", [])] or None

        async def requests():
            for i in range(count):
                params = record.get("first_params", record["params"]) if i == 0 else record["params"]
                yield dict(
                    model_name=model, outputs=outputs, parameters=self.filled(params) or None,
                    inputs=[tensor(n, v) for n, v in self.filled(record["inputs"]).items()],
                    request_id=record.get("request_id", "") + (str(i) if count > 1 else ""),
                    enable_empty_final_response=record.get("empty_final", False))

        answers = []
        try:
            async for result, error in self.client.stream_infer(requests(), stream_timeout=LIMIT_S):
                answers.append({"error": written_error(error)} if error else written_answer(result))
        except InferenceServerException as error:
            answers.append({"stream_exception": written_error(error)})
        except (TypeError, ValueError) as error:     # the client library refuses the request
            answers.append({"client_exception": f"{type(error).__name__}: {error}"})
        return {"responses": answers, "n_responses": len(answers)}
