"""Greedy texts of gpt2-tiny, llama-tiny and qwen2-tiny, as recorded from the incumbent."""
import asyncio
import copy

import golden
import pytest
from conftest import MODELS, load
from transport import Sender

RECORDS, SUBSTITUTIONS = golden.load_records("goldens_models.json")
SENT = [r for r in RECORDS if r["transport"] in ("generate", "generate_stream", "grpc_stream")]
LOGPROBS = ("return_logprobs", "return_cumulative_logprob")


def without_logprobs(record):
    """The same request and answer without what is not the greedy text."""
    record = copy.deepcopy(record)
    record["params"].pop("logprobs", None)
    for name in LOGPROBS:
        record["inputs"].pop(name, None)
    answer = record["response"].get("json", {})
    for name in ("logprobs", "cumulative_logprob"):
        answer.pop(name, None)
    return record


@pytest.fixture(scope="module")
def loaded(server, repository):
    for name in ("gpt2-tiny", "llama-tiny", "qwen2-tiny"):
        load(server, repository.add(name, checkpoint=MODELS / name))
    return server


@pytest.mark.parametrize("record", SENT, ids=lambda r: "-".join(golden.key(r)))
def test_greedy_text(loaded, record):
    record = without_logprobs(record)

    async def ask():
        async with Sender(loaded.url, loaded.grpc, record["model"], SUBSTITUTIONS) as sender:
            return await sender.send(record)

    complaint = golden.judge(record, asyncio.run(ask()), golden.Lists([], []))
    assert complaint is None, complaint
