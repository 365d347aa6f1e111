"""Every recorded request of the Python backend, sent to this backend: the same answer, or a listed one."""
import asyncio

import golden
import pytest
from conftest import GOLDEN_MODELS, MODELS, Repository, load
from replay import replay
from server import TritonServer

RECORDS, _ = golden.load_records("goldens.json")
LISTS = golden.Lists.load()
COMPARED = [i for i, r in enumerate(RECORDS) if not r.get("racy")]


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """The new answers to all records, by position."""
    repository = Repository(tmp_path_factory.mktemp("golden"))
    for name in GOLDEN_MODELS:
        repository.add(name, checkpoint=MODELS / name)
    with TritonServer(repository.folder) as server:
        load(server, "opt-tiny")
        return [answer for _, answer in asyncio.run(replay(server.url, server.grpc))]


@pytest.mark.parametrize("index", COMPARED, ids=lambda i: "-".join(golden.key(RECORDS[i])))
def test_answer(answers, index):
    complaint = golden.judge(RECORDS[index], answers[index], LISTS)
    assert complaint is None, complaint


def test_racy_records_are_answered_too(answers):
    for record, answer in zip(RECORDS, answers):
        if record.get("racy"):
            texts = golden.error_texts(golden.view(answer))
            known = (golden.NOT_BUILT_TEXT, "generate expects model to produce exactly 1 response")
            assert all(any(k in text for k in known) for text in texts), (golden.key(record), texts)
