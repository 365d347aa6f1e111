"""Requests to classifiers and rerankers: scores as transformers computed them, over HTTP and gRPC, and what is refused."""
import asyncio
import json

import aiohttp
import pytest
from clients import batch, generate, generate_stream, grpc_stream, texts
from conftest import CONFIG, load
from server import ROOT

SCORERS = ROOT / "tests" / "fixtures" / "scorers"
QWEN3_RERANKER = {"architectures": ["Qwen3ForSequenceClassification"], "classifier_from_token": ["no", "yes"],
                  "is_original_qwen3_reranker": True}
# A decoder, an encoder, a language model: what model.json says of each.
ENGINES = {
    "qwen3": {"runner": "pooling", "convert": "classify"},
    "bert": {"task": "score"},
    "qwen3-reranker": {"runner": "pooling", "hf_overrides": QWEN3_RERANKER},
}


def cases(row):
    return json.loads((SCORERS / row / "scores.json").read_text())["cases"]


@pytest.fixture(scope="module")
def scorers(server, repository):
    for row, engine in ENGINES.items():
        load(server, repository.add(row, checkpoint=SCORERS / row, engine={"max_model_len": None, **engine}))
    return server


def question(case):
    if "text_1" in case:
        return {"text_1": case["text_1"], "text_2": case["text_2"]}
    return {"input": case.get("text", case["ids"])}


def asked(case, **params):
    return {"embedding_request": json.dumps({**question(case), "pooling_params": params})}


def close(text, want):
    got = json.loads(text)
    assert len(got) == len(want) and max(abs(g - w) for g, w in zip(got, want)) < 1e-4, (got, want)


@pytest.mark.parametrize("row", ENGINES)
def test_every_case_over_http_and_grpc(scorers, row):
    flags = {"return_num_input_tokens": True, "return_num_output_tokens": True}
    assert any("text_1" in case for case in cases(row)) and any("text" in case for case in cases(row))
    for case in cases(row):
        status, answer = generate(scorers, row, {**asked(case), **flags})
        assert status == 200, answer
        assert (answer["num_input_tokens"], answer["num_output_tokens"]) == (len(case["ids"]), 0)
        close(answer["text_output"], case["scores"])
        [(outputs, final)] = grpc_stream(scorers, row, {**asked(case), **flags})
        assert final and outputs["num_input_tokens"].shape == outputs["num_output_tokens"].shape == ()
        close(texts(outputs)[0], case["scores"])


def test_logits_and_streams(scorers):
    case = cases("qwen3")[0]
    status, answer = generate(scorers, "qwen3", asked(case, use_activation=False))
    assert status == 200
    close(answer["text_output"], case["logits"])
    status, [event] = generate_stream(scorers, "qwen3", asked(case))
    assert status == 200
    close(event["text_output"], case["scores"])


def test_many_at_once_get_the_scores_of_each(scorers):
    wanted = cases("bert")

    async def run():
        async with aiohttp.ClientSession() as session:
            async def one(case):
                async with session.post(f"{scorers.url}/v2/models/bert/generate", json=asked(case)) as response:
                    assert response.status == 200
                    return (await response.json())["text_output"]

            return await asyncio.gather(*(one(wanted[i % len(wanted)]) for i in range(200)))

    for i, text in enumerate(asyncio.run(run())):
        close(text, wanted[i % len(wanted)]["scores"])


def test_a_batch_of_documents_is_a_batch_of_scores(server, repository):
    config = CONFIG + "max_batch_size: 4\n"
    load(server, repository.add("bert-batched", config=config, checkpoint=SCORERS / "bert", engine={"max_model_len": None}))
    pairs = [case for case in cases("bert") if "text_1" in case]
    rows = [asked(case)["embedding_request"] for case in pairs]
    [(outputs, final)] = grpc_stream(server, "bert-batched", [batch("embedding_request", rows)])
    assert final and outputs["text_output"].shape == (len(pairs), 1)
    for text, case in zip(texts(outputs), pairs):
        close(text, case["scores"])


def raw(value):
    return {"embedding_request": json.dumps(value)}


@pytest.mark.parametrize("request_body, expected", [
    ({"text_input": "a"}, "Model bert does not support 'generate' request"),
    (raw({"input": "a", "pooling_params": {"dimensions": [8]}}), "'dimensions' cuts vectors, and this model classifies"),
    (raw({"text_1": "a"}), "'text_2' is missing"),
    (raw({"text_1": "a", "text_2": ["b", "c"]}), "several pairs take several requests"),
    (raw({"input": "a", "text_1": "a", "text_2": "b"}), "exclude each other"),
    (raw({"text_1": "a", "text_2": "dog " * 64}), "contains at least 65 input tokens"),
    (raw({"input": [113]}), "Token id 113 is out of vocabulary"),
    (raw({"input": "a", "pooling_params": {"use_activation": "no"}}), "'use_activation' must be true or false"),
])
def test_refusals(scorers, request_body, expected):
    status, answer = generate(scorers, "bert", request_body)
    assert status == 400 and answer["error"].startswith("Error generating stream: ") and expected in answer["error"]
    assert "\n" not in answer["error"]


@pytest.mark.parametrize("name, row, engine, expected", [
    ("generates", "qwen3", {"runner": "generate"}, "does not support runner 'generate'"),
    ("embeds", "qwen3", {"task": "embed", "convert": "embed"}, "does not support convert 'embed'"),
    ("labels", "qwen3", {"hf_overrides": {"id2label": None, "num_labels": 2}}, "has shape [3, 16], expected [2, 16]"),
    ("headless", "qwen3-reranker", {"convert": "classify"}, "tensor 'score.weight' is missing"),
    ("activation", "bert", {"hf_overrides": {"sbert_ce_default_activation_function": "torch.nn.Mish"}},
     "'torch.nn.Mish' is not supported"),
    ("token", "qwen3-reranker", {"hf_overrides": {**QWEN3_RERANKER, "classifier_from_token": ["no", "maybe"]}},
     "the tokenizer has no token 'maybe'"),
])
def test_what_cannot_be_scored_fails_the_load(server, repository, name, row, engine, expected):
    engine = {"max_model_len": None, **engine}
    status, text = server.load_model(repository.add(f"refused-{name}", checkpoint=SCORERS / row, engine=engine))
    assert status != 200 and expected in text, text
