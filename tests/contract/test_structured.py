"""The Python backend's recorded answers with structured outputs and an engine that writes JSON without free whitespace."""
import asyncio

import golden
import pytest
from conftest import load
from replay import SUM, collect, sum_of
from transport import Sender

RECORDS, SUBSTITUTIONS = golden.load_records("goldens_so_nowhitespace.json")


@pytest.fixture(scope="module")
def answers(server, repository):
    engine = {"structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True}}
    load(server, repository.add("opt-tiny", engine=engine))

    async def ask():
        async with Sender(server.url, server.grpc, "opt-tiny", SUBSTITUTIONS) as sender:
            return await collect(RECORDS, sender)

    return asyncio.run(ask())


@pytest.mark.parametrize("index", range(len(RECORDS)), ids=lambda i: "-".join(golden.key(RECORDS[i])))
def test_answer(answers, index):
    """Texts of refusals are those of another library here: goldens.json has ours. Rows 6 and 17 of the table otherwise."""
    record, new = RECORDS[index], golden.view(golden.text_of_nan(answers[index]))
    old = golden.view(record["response"])
    if record["id"] in ("so.dict_not_string", "so.guided_decoding"):
        assert not golden.error_texts(new), new
    elif golden.error_texts(old):
        assert golden.error_texts(new), new
    else:
        total = sum_of(new)
        assert total is None or total < 0
        expected = golden.with_fields(old, {SUM: total})
        assert golden.same(expected, new), f"\n   {golden.brief(expected)}\n   {golden.brief(new)}"
