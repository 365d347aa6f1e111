"""What Triton's own OpenAI front end sends for an OpenAI request, and how it reads the answers.

The front end runs in the server's process and is no part of the server wheels: `translated` and `Reading` follow its
rules, the requests travel by gRPC.
"""
import asyncio
import json
import struct
import urllib.request

import pytest
import tritonclient.grpc.aio as grpc
from clients import LIMIT_S, PROMPT, golden_text
from conftest import load
from server import ROOT
from test_lora import add, text_of
from transport import tensor

# Fields of an OpenAI request that are not handed on; every other one that is not null is.
DROPPED = {"model", "stream", "messages", "prompt", "echo", "store", "metadata", "response_format", "service_tier",
           "stream_options", "tools", "tool_choice", "parallel_tool_calls", "user", "function_call", "functions",
           "suffix", "max_completion_tokens", "logprobs", "top_logprobs", "best_of"}
DEFAULT_MAX_TOKENS = 16


def logprobs_of(request):
    """Completions ask for a number, chats for `logprobs: true` and perhaps `top_logprobs`."""
    asked = request.get("logprobs")
    if asked is None or asked is False:
        return None
    return (request.get("top_logprobs") or 0) if asked is True else asked


def constraint(**used):
    """The front end's object for a forced tool call, as JSON text: every field, set or not, and some of its own."""
    unset = dict.fromkeys(("json", "regex", "choice", "grammar", "json_object", "whitespace_pattern", "structural_tag"))
    flags = dict.fromkeys(("disable_fallback", "disable_any_whitespace", "disable_additional_properties"), False)
    return json.dumps({**unset, **flags, "_backend": None, "_backend_was_auto": False, **used})


def forced(tools, choice):
    """The constraint of a forced tool call: the parameters of the one that is named, or a list of calls."""
    if choice == "required":
        calls = [{"properties": {"name": {"type": "string", "enum": [t["name"]]}, "parameters": t["parameters"]},
                  "required": ["name", "parameters"]} for t in tools]
        return constraint(json={"type": "array", "minItems": 1, "items": {"type": "object", "anyOf": calls}})
    return constraint(json=next(t["parameters"] for t in tools if t["name"] == choice["function"]["name"]))


def translated(request, prompt, lora=None):
    """The inputs of the generate request."""
    fields = {k: v for k, v in request.items() if v is not None and k not in DROPPED}
    fields.setdefault("max_tokens", request.get("max_completion_tokens") or DEFAULT_MAX_TOKENS)
    count = logprobs_of(request)
    if count is not None:
        fields["logprobs"] = count
    if lora is not None:
        fields["lora_name"] = lora
    if request.get("tools") and request.get("tool_choice") not in (None, "auto", "none"):
        fields["structured_outputs"] = forced([t["function"] for t in request["tools"]], request["tool_choice"])
    return {"text_input": prompt, "stream": bool(request.get("stream")),
            "exclude_input_in_output": not request.get("echo", False), "sampling_parameters": json.dumps(fields),
            "return_num_input_tokens": True, "return_num_output_tokens": True, "return_logprobs": count is not None}


class Reading:
    """All responses of a request put together as the front end does it."""

    def __init__(self, greedy):
        self.greedy = greedy    # then the likeliest token is the one in the text
        self.text, self.chosen, self.prompt_tokens, self.output_tokens = "", [], 0, 0

    def add(self, result):
        answer = result.get_response()
        raw = dict(zip((o.name for o in answer.outputs), answer.raw_output_contents))
        strings = result.as_numpy("text_output")
        assert strings.size == 1, "exactly one string per response"
        text = strings.flatten()[0].decode()
        self.text += text
        self.prompt_tokens = struct.unpack_from("<I", raw["num_input_tokens"])[0]
        new = struct.unpack_from("<I", raw["num_output_tokens"])[0]
        self.output_tokens += new
        if "logprobs" in raw:
            positions = json.loads(result.as_numpy("logprobs").flatten()[0])
            assert len(positions) == new, "tokens and their logprobs travel together"
            best = [min(p.values(), key=lambda entry: entry["rank"]) for p in positions]
            if self.greedy:
                assert "".join(entry["decoded_token"] for entry in best) == text
            assert all(set(e) == {"logprob", "rank", "decoded_token"} for p in positions for e in p.values())
            self.chosen += best


async def asked(server, model, inputs):
    reading, finals = Reading(json.loads(inputs["sampling_parameters"])["temperature"] == 0), []
    errors = []

    async def requests():
        yield dict(model_name=model, inputs=[tensor(n, v) for n, v in inputs.items()], enable_empty_final_response=True)

    async with grpc.InferenceServerClient(server.grpc) as client:
        async for result, error in client.stream_infer(requests(), stream_timeout=LIMIT_S):
            # The stream is read to its end: stock servers can lose a request whose stream is left in its last moments.
            if error:
                errors.append(error)
                continue
            finals.append(result.get_response().parameters["triton_final_response"].bool_param)
            reading.add(result)
    if errors:
        raise errors[0]
    assert finals == [False] * (len(finals) - 1) + [True]
    return reading, len(finals)


def ask(server, request, prompt=PROMPT, model="opt-tiny", **more):
    return asyncio.run(asked(server, model, translated(request, prompt, **more)))


CHAT = {"model": "opt-tiny", "messages": [{"role": "user", "content": PROMPT}], "temperature": 0, "top_p": 1, "n": 1,
        "seed": None, "stop": None, "frequency_penalty": 0.0, "presence_penalty": 0.0, "logit_bias": None,
        "user": "somebody", "tools": None}


def test_the_front_end_takes_the_model_for_a_vllm_one(tiny):
    with urllib.request.urlopen(f"{tiny.url}/v2/models/opt-tiny/config") as answer:
        config = json.loads(answer.read())
    assert config["backend"] == "vllm" and config["model_transaction_policy"]["decoupled"]
    assert "exclude_input_in_output" in {i["name"] for i in config["input"]}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("logprobs", [None, 0, 5])
def test_chat(tiny, stream, logprobs):
    request = {**CHAT, "stream": stream, "max_completion_tokens": 24}
    if logprobs is not None:
        request |= {"logprobs": True, "top_logprobs": logprobs}
    reading, responses = ask(tiny, request)
    assert reading.text == golden_text(24)
    assert (reading.prompt_tokens, reading.output_tokens) == (11, 24)
    assert responses > 1 if stream else responses == 1
    assert len(reading.chosen) == (0 if logprobs is None else 24)
    assert all(entry["rank"] == 1 and entry["logprob"] <= 0 for entry in reading.chosen)


def test_completion_with_echo_default_length_and_a_list_of_stops(tiny):
    request = {"model": "opt-tiny", "prompt": PROMPT, "echo": True, "temperature": 0, "best_of": 1, "suffix": None}
    reading, _ = ask(tiny, request)
    assert reading.text == PROMPT + golden_text(16)
    stop = golden_text(16)[20:24]
    for spelled in (stop, [stop, "never"]):
        reading, _ = ask(tiny, {**request, "echo": False, "stop": spelled, "logprobs": None})
        assert reading.text == golden_text(16)[:golden_text(16).index(stop)]


def test_seeded_completions_repeat(tiny):
    request = {"model": "opt-tiny", "prompt": PROMPT, "temperature": 1.0, "seed": 7, "max_tokens": 12, "logprobs": 1}
    first, _ = ask(tiny, request)
    second, _ = ask(tiny, {**request, "stream": True})
    assert first.text == second.text and first.output_tokens == second.output_tokens == 12


def test_a_bias_is_spelled_with_text_keys(tiny):
    # 851 is what golden_text() begins with.
    reading, _ = ask(tiny, {**CHAT, "logit_bias": {"851": -100, "1404": 100}, "max_tokens": 3})
    assert reading.text.startswith("AC") and reading.output_tokens == 3


TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {
    "type": "object", "required": ["unit", "now"], "additionalProperties": False,
    "properties": {"unit": {"enum": ["celsius", "kelvin"]}, "now": {"type": "boolean"}}}}}]


@pytest.fixture(scope="module")
def terse(server, repository):
    """A model without sense would go on with blanks, or with properties of its own, for ever."""
    rules = {"disable_any_whitespace": True, "disable_additional_properties": True}
    load(server, repository.add("terse", engine={"structured_outputs_config": rules}))
    return server


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", [{"type": "function", "function": {"name": "weather"}}, "required"],
                         ids=["named", "required"])
def test_a_forced_tool_call_is_json_for_the_tool(terse, choice, stream):
    request = {**CHAT, "tools": TOOLS, "tool_choice": choice, "parallel_tool_calls": False, "stream": stream,
               "temperature": 0.7, "seed": 3, "max_tokens": 200}
    reading, _ = ask(terse, request, model="terse")
    if choice == "required":
        # A model without sense calls until it may not any more: the first one counts.
        assert reading.text.startswith("[")
        call, _ = json.JSONDecoder().raw_decode(reading.text, 1)
        assert call.pop("name") == "weather" and list(call) == ["parameters"]
        call = call["parameters"]
    else:
        call = json.loads(reading.text)
    assert call["unit"] in ("celsius", "kelvin") and call["now"] in (True, False) and len(call) == 2


def test_tools_that_may_be_left_alone_change_nothing(tiny):
    reading, _ = ask(tiny, {**CHAT, "tools": TOOLS, "tool_choice": "auto", "max_tokens": 16})
    assert reading.text == golden_text(16)


def test_an_adapter_is_a_name(server, repository):
    load(server, add(repository, "adapters"))
    request = {**CHAT, "max_tokens": 12}
    for name in ("sheep", None):
        reading, _ = ask(server, request, model="adapters", lora=name)
        assert reading.text == text_of(f"lora.{name}")
    with pytest.raises(Exception, match="LoRA xyz is not supported, we currently support \\['sheep'"):
        ask(server, request, model="adapters", lora="xyz")


@pytest.mark.parametrize("value", ["The most dangerous animal is the mosquito.", [7, 8, 9]], ids=["text", "tokens"])
@pytest.mark.parametrize("dimensions", [None, 8])
def test_embeddings(server, repository, value, dimensions):
    """No text_input; the number of prompt tokens from the raw buffer; a JSON list of floats, which it turns to base64 itself."""
    name = "minilm"
    if not (repository.folder / name).exists():
        engine = {"max_model_len": None, "hf_overrides": {"is_matryoshka": True}}
        load(server, repository.add(name, checkpoint=ROOT / "tests" / "fixtures" / "models" / "bert", engine=engine))
    pooling = {} if dimensions is None else {"dimensions": [dimensions]}
    inputs = {"embedding_request": json.dumps({"input": value, "pooling_params": pooling}),
              "return_num_input_tokens": True, "return_num_output_tokens": True}

    async def run():
        async def requests():
            yield dict(model_name=name, inputs=[tensor(n, v) for n, v in inputs.items()])

        async with grpc.InferenceServerClient(server.grpc) as client:
            return [one async for one in client.stream_infer(requests(), stream_timeout=LIMIT_S)]

    ((result, error),) = asyncio.run(run())
    assert error is None
    answer = result.get_response()
    raw = dict(zip((o.name for o in answer.outputs), answer.raw_output_contents))
    counts = [struct.unpack_from("<I", raw[f"num_{side}_tokens"])[0] for side in ("input", "output")]
    vector = json.loads(result.as_numpy("text_output").flatten()[0])
    assert counts == [3 if isinstance(value, list) else 10, 0]
    assert len(vector) == (dimensions or 32) and all(type(x) is float for x in vector)
    assert abs(sum(x * x for x in vector) - 1) < 1e-5


def test_errors_reach_the_front_end(tiny):
    with pytest.raises(Exception, match="temperature must be in"):
        ask(tiny, {**CHAT, "temperature": 3})
