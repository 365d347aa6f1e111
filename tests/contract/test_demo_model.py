"""The model that comes along, served from model_repository/ as the README says: it adds correctly."""
import asyncio
import json
import subprocess
import sys

import aiohttp
import pytest
from clients import LIMIT_S
from server import ROOT, TritonServer

SEED, COUNT, AT_ONCE = 20251, 1000, 32
RIGHT = 0.99


@pytest.fixture(scope="module")
def served():
    with TritonServer(ROOT / "model_repository", control="none") as server:
        yield server


def questions():
    """Held-out additions that the model was not trained on, drawn from the seed."""
    script = ROOT / "training" / "questions.py"
    out = subprocess.run([sys.executable, script, "--seed", str(SEED), "--count", str(COUNT)],
                         capture_output=True, text=True, check=True)
    asked = [json.loads(line) for line in out.stdout.splitlines()]
    assert len(asked) == COUNT
    return asked


def test_a_thousand_additions(served):
    asked = questions()

    async def run():
        gate = asyncio.Semaphore(AT_ONCE)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5 * LIMIT_S)) as session:
            async def one(question):
                body = {"text_input": question["prompt"], "exclude_input_in_output": True,
                        "parameters": {"stream": False, "temperature": 0, "max_tokens": 16}}
                async with gate, session.post(f"{served.url}/v2/models/vllm_model/generate", json=body) as answer:
                    return (await answer.json()).get("text_output")
            return await asyncio.gather(*(one(q) for q in asked))

    answers = asyncio.run(run())
    wrong = [(q["prompt"], q["answer"], a) for q, a in zip(asked, answers) if a != q["answer"]]
    assert len(wrong) <= COUNT * (1 - RIGHT), (len(wrong), wrong[:10])


def test_the_request_of_the_upstream_readme(served):
    body = {"text_input": "What is Triton Inference Server?", "parameters": {"stream": False, "temperature": 0}}
    status, text = served.post("v2/models/vllm_model/generate", body)
    assert status == 200 and json.loads(text)["text_output"].startswith(body["text_input"])
