"""Requests that embed: the Python backend's recorded answers, and a small BERT as sentence-transformers saves it."""
import asyncio
import copy
import json
import math

import golden
import aiohttp
import pytest
from clients import batch, generate, generate_stream, grpc_stream, texts
from conftest import CONFIG, MODELS, load
from server import ROOT
from transport import Sender

RECORDS, SUBSTITUTIONS = golden.load_records("goldens_embed.json")
BERT = ROOT / "tests" / "fixtures" / "models" / "bert"
CASES = json.loads((BERT / "embeddings.json").read_text())["cases"]
# By the table of decisions: real texts instead of empty ones, one line that says where.
LISTS = golden.Lists([
    {"case": "embed.list_of_str", "transports": ["generate", "grpc_stream"], "row": 2,
     "error": "Error generating stream: embedding_request: 'input' must be a string or a list of token ids, got a list with a "
              "string at index 0; several texts take several requests"},
    {"case": "embed.bad_json", "transports": ["generate", "grpc_stream"], "row": 13,
     "error": "Error generating stream: embedding_request is not valid JSON: expected value at line 1 column 1"},
], [])


@pytest.fixture(scope="module")
def qwen(server, repository):
    engine = {"runner": "pooling", "convert": "embed"}
    load(server, repository.add("embed-tiny", checkpoint=MODELS / "qwen2-tiny", engine=engine))
    return server


@pytest.fixture(scope="module")
def bert(server, repository):
    load(server, repository.add("bert", checkpoint=BERT, engine={"max_model_len": None}))
    return server


def unit(vector):
    length = math.sqrt(sum(x * x for x in vector))
    return [x / length for x in vector]


def vector_of(case):
    """What sentence-transformers makes of a text; of ids, the mean that it is."""
    return case.get("sentence") or unit(case["mean"])


def asked(value, **pooling):
    return {"embedding_request": json.dumps({"input": value, "pooling_params": pooling})}


def close(text, want):
    got = json.loads(text)
    assert len(got) == len(want) and max(abs(g - w) for g, w in zip(got, want)) < 1e-4


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: "-".join(golden.key(r)))
def test_recorded_answer(qwen, record):
    async def ask():
        async with Sender(qwen.url, qwen.grpc, record["model"], SUBSTITUTIONS) as sender:
            return await sender.send(record)

    answer = json.loads(json.dumps(asyncio.run(ask())).replace(str(MODELS), "MODELS"))
    complaint = golden.judge(copy.deepcopy(record), answer, LISTS)
    assert complaint is None, complaint


def test_every_text_over_http_and_grpc(bert):
    """Without text_input, as the OpenAI front end asks; CASES hold what sentence-transformers answers."""
    flags = {"return_num_input_tokens": True, "return_num_output_tokens": True}
    for case in CASES:
        value = case.get("text", case["ids"])
        status, answer = generate(bert, "bert", {**asked(value), **flags})
        assert status == 200, answer
        assert (answer["num_input_tokens"], answer["num_output_tokens"]) == (len(case["ids"]), 0)
        close(answer["text_output"], vector_of(case))
        [(outputs, final)] = grpc_stream(bert, "bert", {**asked(value), **flags})
        assert final and outputs["num_input_tokens"].shape == outputs["num_output_tokens"].shape == ()
        close(texts(outputs)[0], vector_of(case))
    status, [event] = generate_stream(bert, "bert", asked("a"))
    assert status == 200 and len(json.loads(event["text_output"])) == 32


def test_many_at_once_get_the_vectors_of_each(bert):
    async def run():
        async with aiohttp.ClientSession() as session:
            async def one(case):
                url = f"{bert.url}/v2/models/bert/generate"
                async with session.post(url, json=asked(case["ids"])) as response:
                    assert response.status == 200
                    return (await response.json())["text_output"]

            return await asyncio.gather(*(one(CASES[i % len(CASES)]) for i in range(200)))

    for i, text in enumerate(asyncio.run(run())):
        close(text, vector_of(CASES[i % len(CASES)]))


@pytest.mark.parametrize("request_body, expected", [
    ({"text_input": "a"}, "Model bert does not support 'generate' request"),
    (asked([5] * 61), "contains 61 input tokens"),
    (asked("animal " * 59), "contains at least 61 input tokens"),
    (asked([]), "The decoder prompt cannot be empty"),
    (asked([131]), "Token id 131 is out of vocabulary"),
    (asked("a", dimensions=[8]), "does not support matryoshka representation"),
    (asked("a", dimensions="8"), "'dimensions' must be an integer"),
])
def test_refusals(bert, request_body, expected):
    status, answer = generate(bert, "bert", request_body)
    assert status == 400 and answer["error"].startswith("Error generating stream: ") and expected in answer["error"]


def test_a_batch_of_texts_is_a_batch_of_vectors(server, repository):
    config = CONFIG + "max_batch_size: 4\n"
    engine = {"max_model_len": None, "hf_overrides": {"is_matryoshka": True}}
    load(server, repository.add("bert-batched", config=config, checkpoint=BERT, engine=engine))
    cases = CASES[:3]
    rows = [asked(case["ids"], dimensions=[8])["embedding_request"] for case in cases]
    [(outputs, final)] = grpc_stream(server, "bert-batched", [batch("embedding_request", rows)])
    assert final and outputs["text_output"].shape == (3, 1)
    for text, case in zip(texts(outputs), cases):
        close(text, unit(case["mean"][:8]))


def test_a_model_that_cannot_generate_says_so_at_load(server, repository):
    for name, engine, expected in (
        ("bert-generate", {"max_model_len": None, "runner": "generate"}, "does not support runner 'generate'"),
        ("bert-long", {"max_model_len": 256}, "max_seq_length=60.0"),
        ("bert-classify", {"max_model_len": None, "convert": "classify"}, "tensor 'classifier.weight' is missing"),
    ):
        status, text = server.load_model(repository.add(name, checkpoint=BERT, engine=engine))
        assert status != 200 and expected in text, text
