"""Weights with NaN: the request that meets them fails with a line that says so, a counter counts, nobody else notices."""
import asyncio
import json
import re
import shutil
import struct
import sys
import time
import urllib.request
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from clients import PROMPT, generate, grpc_stream, post  # noqa: E402
from conftest import CONFIG, MODELS, load  # noqa: E402

REPORT = CONFIG + 'parameters [ { key: "REPORT_CUSTOM_METRICS" value: { string_value: "true" } } ]\n'
REMEDY = "set dtype to bfloat16 or float32"


def poisoned(model, folder, tensor, row):
    """A copy of a model in which a row of a float32 tensor is NaN."""
    shutil.copytree(MODELS / model, folder)
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    (size,) = struct.unpack("<Q", data[:8])
    info = json.loads(data[8:8 + size])[tensor]
    width = info["shape"][1]
    start = 8 + size + info["data_offsets"][0] + 4 * width * row
    data[start:start + 4 * width] = struct.pack("<f", float("nan")) * width
    path.write_bytes(data)
    return folder


def corrupted(server, model):
    with urllib.request.urlopen(server.metrics_url) as answer:
        text = answer.read().decode()
    (value,) = re.findall(rf'^vllm:corrupted_requests_total{{model="{model}",version="1"}} (\S+)$', text, re.M)
    return float(value)


def settled(server, model, expected):
    limit = time.monotonic() + 10
    while corrupted(server, model) != expected and time.monotonic() < limit:
        time.sleep(0.05)
    assert corrupted(server, model) == expected


@pytest.fixture(scope="module")
def nan_embed(server, repository, tmp_path_factory):
    """llama-tiny with NaN for one token of its table, and the word that is this token; llama-tiny beside it."""
    vocab = json.loads((MODELS / "llama-tiny" / "tokenizer.json").read_text())["model"]["vocab"]
    word = next(w for w in ("Ġzebra", "Ġcastle", "Ġwindow", "Ġbook", "Ġyear") if w in vocab)
    folder = tmp_path_factory.mktemp("nan") / "embed"
    poisoned("llama-tiny", folder, "model.embed_tokens.weight", vocab[word])
    load(server, repository.add("nan-embed", config=REPORT, checkpoint=folder))
    load(server, repository.add("sound", checkpoint=MODELS / "llama-tiny"))
    return word.replace("Ġ", " ")


def body(prompt, **parameters):
    return {"text_input": prompt, "exclude_input_in_output": True,
            "parameters": {"temperature": 0, "max_tokens": 12, **parameters}}


def test_a_head_with_nan_fails_each_request_in_one_line(server, repository, tmp_path):
    folder = poisoned("llama-tiny", tmp_path / "head", "lm_head.weight", 7)
    load(server, repository.add("nan-head", config=REPORT, checkpoint=folder))
    assert corrupted(server, "nan-head") == 0
    where = server.log_size()
    status, answer = generate(server, "nan-head", body(PROMPT))
    assert status == 400, answer
    line = answer["error"]
    assert "The logits of output token 1 are not finite (NaN or infinity)." in line and REMEDY in line and "\n" not in line
    status, answer = generate(server, "nan-head", body(PROMPT, n=3, temperature=1.0, seed=5, logprobs=3))
    assert status == 400 and "output token 1 " in answer["error"], answer
    answers = grpc_stream(server, "nan-head", {"text_input": PROMPT, "stream": True})
    assert len(answers) == 1 and "output token 1 " in answers[0], answers
    settled(server, "nan-head", 3)
    assert server.log_since(where).count("output token 1 are not finite") == 3
    assert server.alive() and server.model_state("nan-head") == "READY"


def test_a_prompt_that_meets_nan_fails_alone(server, nan_embed):
    clean = [f"{PROMPT} number {i} of" for i in range(6)]
    want = [generate(server, "sound", body(prompt)) for prompt in clean]
    assert all(status == 200 and nan_embed not in answer["text_output"] for status, answer in want)
    before = corrupted(server, "nan-embed")

    async def run():
        hit = [post(server.url, "nan-embed/generate", body(f"{prompt}{nan_embed}")) for prompt in clean]
        rest = [post(server.url, "nan-embed/generate", body(prompt)) for prompt in clean]
        return await asyncio.gather(*hit, *rest)

    for _ in range(2):
        answers = asyncio.run(run())
        for status, answer in answers[:6]:
            assert status == 400 and "output token 1 are not finite" in answer["error"], answer
        for (status, answer), (_, right) in zip(answers[6:], want):
            assert status == 200 and answer["text_output"] == right["text_output"], answer
    settled(server, "nan-embed", before + 12)


def test_an_embedding_with_nan_fails(server, repository, tmp_path):
    folder = poisoned("qwen2-tiny", tmp_path / "pool", "model.embed_tokens.weight", 9)
    load(server, repository.add("nan-pool", config=REPORT, checkpoint=folder, engine={"runner": "pooling"}))
    ask = lambda tokens: generate(server, "nan-pool", {"embedding_request": json.dumps({"input": tokens})})
    status, answer = ask([5, 9, 7])
    assert status == 400 and "The embedding is not finite (NaN or infinity)." in answer["error"], answer
    # The same beginning, and nothing of what the failed one left behind.
    for tokens in ([5, 6, 7], [5, 8]):
        status, answer = ask(tokens)
        assert status == 200 and "NaN" not in json.dumps(answer), answer
    settled(server, "nan-pool", 1)
