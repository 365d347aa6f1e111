"""Limits refuse at once, with the number and the key to change; and nothing in a repository is ever written."""
import json

import pytest
from clients import PROMPT, generate, grpc_stream
from conftest import MODELS, Repository, load
from server import TritonServer

LIMIT_BYTES = 2000


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    repository = Repository(tmp_path_factory.mktemp("strict"))
    with TritonServer(repository.folder, backend_config={"max-request-bytes": LIMIT_BYTES}) as server:
        load(server, repository.add("opt-tiny"))
        yield server


def still_serves(server):
    assert generate(server, "opt-tiny", {"text_input": PROMPT, "parameters": {"temperature": 0}})[0] == 200


def test_a_request_of_too_many_bytes_over_http_and_grpc(strict):
    text = "a" * (LIMIT_BYTES + 1)
    status, answer = generate(strict, "opt-tiny", {"text_input": text})
    answers = grpc_stream(strict, "opt-tiny", {"text_input": text, "stream": True})
    assert status == 400 and len(answers) == 1
    for said in (answer["error"], answers[0]):
        assert f"larger than {LIMIT_BYTES} bytes" in said and "max-request-bytes" in said, said
    still_serves(strict)


def test_a_limit_counts_all_inputs_together_and_names_itself(strict):
    body = {"text_input": "a" * 1500, "sampling_parameters": json.dumps({"stop": "b" * 1500})}
    status, answer = generate(strict, "opt-tiny", body)
    assert status == 400 and f"larger than {LIMIT_BYTES} bytes" in answer["error"], answer


def test_a_prompt_far_too_long_is_refused_by_its_characters(tiny):
    """Before it becomes tokens: the message counts characters, because nobody counted tokens."""
    status, answer = generate(tiny, "opt-tiny", {"text_input": "word " * 400_000})
    assert status == 400 and "256 tokens" in answer["error"] and "2000000 characters" in answer["error"], answer


def test_nothing_in_the_repository_is_ever_written(server, repository):
    name = repository.add("kept", engine={"enable_log_requests": True}, checkpoint=MODELS / "gpt2-tiny",
                          files={"1/multi_lora.json": "{}"})
    folder = repository.folder / name

    def look():
        files = [p for place in (folder, MODELS / "gpt2-tiny") for p in sorted(place.rglob("*")) if p.is_file()]
        return [(p, p.stat().st_mtime_ns, p.read_bytes()) for p in files]
    before = look()
    load(server, name)
    generate(server, name, {"text_input": PROMPT})
    assert server.unload_model(name)[0] == 200
    assert look() == before
