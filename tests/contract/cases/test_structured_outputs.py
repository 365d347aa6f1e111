"""Structured outputs as vLLM's users know them (cases 2, 3, 4, 20), and hostile ones that must not cost others anything
(attacks 4, 5, 6 and 8), beside a quiet stream and through the server."""
import asyncio
import json
import re
import time

import aiohttp
import pytest
from clients import LIMIT_S, PROMPT, generate
from conftest import Repository, load
from server import TritonServer

# What one hostile request may take here: generous, machines that test are not idle.
SOON_S = 15
# Between two events of a quiet stream beside them; 250 ms on an idle machine.
PAUSE_S = 2.5


def outputs(schema, **more):
    return json.dumps({"json": schema, "disable_any_whitespace": True, **more})


def ask(server, structured, model="opt-tiny", **parameters):
    parameters = {"temperature": 1.0, "max_tokens": 40, **parameters, "structured_outputs": structured}
    body = {"text_input": "JSON: ", "exclude_input_in_output": True, "parameters": parameters}
    return generate(server, model, body)


def texts(server, structured, seeds, **parameters):
    found = []
    for seed in range(seeds):
        status, answer = ask(server, structured, seed=seed, **parameters)
        assert status == 200, answer
        found.append(answer["text_output"])
    return found


DIGIT = {"type": "integer", "minimum": 0, "maximum": 9}


def test_case_02_an_object_has_the_listed_properties_only(tiny):
    schema = {"type": "object", "properties": {"a": DIGIT}, "required": ["a"]}
    for text in texts(tiny, outputs(schema), 20):
        assert re.fullmatch(r'\{"a": \d\}', text), text
    nested = {"type": "array", "items": {"$ref": "#/$defs/x"}, "minItems": 1, "maxItems": 1, "$defs": {"x": schema}}
    for text in texts(tiny, outputs(nested), 5):
        assert re.fullmatch(r'\[\{"a": \d\}\]', text), text


def test_case_03_one_of_with_a_reference(tiny):
    location = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 1000}, "minItems": 2,
                "maxItems": 2}
    schema = {
        "type": "object", "additionalProperties": False, "required": ["POINT"], "$defs": {"Location": location},
        "properties": {"POINT": {"oneOf": [
            {"type": "integer", "minimum": 0, "maximum": 500}, {"$ref": "#/$defs/Location"}]}},
    }
    for text in texts(tiny, outputs(schema), 10):
        point = json.loads(text)["POINT"]
        assert 0 <= point <= 500 if isinstance(point, int) else len(point) == 2, text


@pytest.mark.parametrize("pattern", [r"\d{3}-\d{4}", r"\d{8}", r"\w{6}"])
def test_case_04_classes_are_ascii(tiny, pattern):
    for text in texts(tiny, json.dumps({"regex": pattern}), 10, temperature=1.5):
        assert re.fullmatch(pattern, text, re.ASCII), text


def test_case_20_integers_are_wide(tiny):
    schema = {"type": "integer", "minimum": -2**63, "maximum": 2**63 - 1}
    for text in texts(tiny, outputs(schema), 10):
        assert -2**63 <= int(text) < 2**63, text


def test_times_are_upper_case_and_notes_are_read_over(tiny):
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", "title": "At", "type": "string",
              "format": "date-time", "description": "when", "examples": ["now"], "deprecated": True}
    for text in texts(tiny, outputs(schema), 10, max_tokens=200):
        assert re.fullmatch(r'"\d{4}-\d\d-\d\dT[\d:.]+(Z|[+-]\d\d:\d\d)"', text, re.ASCII), text


def letters(count):
    return " | ".join(f'"{"abcdefghij"[i * 7 % 10]}"' for i in range(count))


def names(count):
    return [f"n{i}" for i in range(count)]


def nested(depth):
    return [nested(depth - 1)] if depth else 1


HOSTILE = {
    "attack-05-multiple-of": {"json": {"type": "integer", "multipleOf": 4849845}},
    "attack-05-product": {"json": {"allOf": [{"type": "integer", "multipleOf": p} for p in (3, 5, 7, 11, 13, 17, 19)]}},
    "attack-04-alternatives": {"grammar": "start: " + letters(20_000)},
    "attack-04-fewer": {"grammar": "start: " + letters(8_000)},
    "attack-04-ebnf": {"grammar": "root ::= root root | " + letters(8_000)},
    "attack-04-regex": {"regex": "|".join("abcdefghij"[i % 10] for i in range(16_000))},
    "attack-06-empty-choices": {"choice": [""] * 1_000_000},
    "attack-08-required": {"json": {"type": "object", "required": names(60_000)}},
    "attack-08-nested-const": {"json": {"const": nested(60)}},
    "attack-08-wide-const": {"json": {"const": [[i] for i in range(60_000)]}},
    "attack-08-choices": {"choice": names(150_000)},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_outputs_are_answered_soon(tiny, name):
    began = time.monotonic()
    status, answer = ask(tiny, json.dumps(HOSTILE[name]), max_tokens=4)
    assert time.monotonic() - began < SOON_S
    text = json.dumps(answer)
    assert status in (200, 400), text
    assert status == 200 or "error" in answer and len(text) < 1000, text
    assert "panic" not in text and "assertion" not in text


def test_attack_04_and_05_beside_a_quiet_stream(tiny):
    """Hostile grammars, several at once: an ordinary stream goes on, and so does another grammar."""
    quiet = {"text_input": PROMPT, "stream": True, "parameters": {
        "temperature": 0, "max_tokens": 200, "ignore_eos": True, "min_tokens": 200}}

    async def body():
        timeout = aiohttp.ClientTimeout(total=LIMIT_S)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:

            async def post(structured, max_tokens=4):
                parameters = {"max_tokens": max_tokens, "structured_outputs": json.dumps(structured)}
                url = f"{tiny.url}/v2/models/opt-tiny/generate"
                body = {"text_input": "x", "exclude_input_in_output": True, "parameters": parameters}
                began = time.monotonic()
                async with session.post(url, json=body) as response:
                    return response.status, await response.json(), time.monotonic() - began

            async def pauses():
                longest = 0.0
                for _ in range(4):
                    last = time.monotonic()
                    async with session.post(f"{tiny.url}/v2/models/opt-tiny/generate_stream",
                                            json=quiet) as response:
                        assert response.status == 200
                        async for _ in response.content:
                            longest = max(longest, time.monotonic() - last)
                            last = time.monotonic()
                return longest

            stream = asyncio.create_task(pauses())
            hostile = [HOSTILE[name] for name in ("attack-05-multiple-of", "attack-04-alternatives", "attack-04-fewer",
                                                  "attack-08-required", "attack-04-regex")]
            wide = {"grammar": "start: r+\nr: " + letters(1_990)}
            attacks = [asyncio.create_task(post(one)) for one in 3 * hostile + 2 * [wide]]
            await asyncio.sleep(0.05)
            status, answer, seconds = await post({"choice": ["yes", "no"]}, max_tokens=10)
            assert status == 200 and answer["text_output"] in ("yes", "no"), answer
            assert seconds < SOON_S
            await asyncio.gather(*attacks)
            return await stream

    assert asyncio.run(body()) < PAUSE_S


def test_attack_05_the_limit_is_the_operators(tmp_path_factory):
    """A budget that nothing keeps: the refusal names it and its key. And the same server serves on without a grammar."""
    repository = Repository(tmp_path_factory.mktemp("limit"))
    with TritonServer(repository.folder, backend_config={"grammar-timeout-ms": "1"}) as server:
        load(server, repository.add("opt-tiny"))
        schema = {"type": "object", "properties": {f"p{i}": {"type": "string", "pattern": f"^a{{{i}}}b*$"}
                                                   for i in range(400)}}
        status, answer = ask(server, outputs(schema))
        assert status == 400 and "1 ms, the limit of --backend-config=vllm,grammar-timeout-ms" in answer["error"], answer
        status, answer = generate(server, "opt-tiny", {"text_input": "x", "parameters": {"max_tokens": 2}})
        assert status == 200, answer
