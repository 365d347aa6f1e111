"""Greedy texts and logprobs of gpt2-tiny, llama-tiny and qwen2-tiny, as recorded from the Python backend."""
import asyncio

import golden
import pytest
from conftest import MODELS, load
from transport import Sender

RECORDS, SUBSTITUTIONS = golden.load_records("goldens_models.json")
LISTS = golden.Lists.load()
SENT = [r for r in RECORDS if r["transport"] in ("generate", "generate_stream", "grpc_stream")]


@pytest.fixture(scope="module")
def loaded(server, repository):
    for name in ("gpt2-tiny", "llama-tiny", "qwen2-tiny"):
        load(server, repository.add(name, checkpoint=MODELS / name))
    return server


@pytest.mark.parametrize("record", SENT, ids=lambda r: "-".join(golden.key(r)))
def test_answer(loaded, record):
    async def ask():
        async with Sender(loaded.url, loaded.grpc, record["model"], SUBSTITUTIONS) as sender:
            return await sender.send(record)

    complaint = golden.judge(record, asyncio.run(ask()), LISTS)
    assert complaint is None, complaint
