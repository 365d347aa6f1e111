"""A server that completes no configuration (--disable-auto-complete-config): what the file says is what is served."""
import pytest
from clients import PROMPT, generate, generate_stream, golden_text
from conftest import CONFIG, Repository, load
from server import TritonServer

DECLARED = CONFIG + """
input [
  { name: "text_input" data_type: TYPE_STRING dims: [ 1 ] },
  { name: "stream" data_type: TYPE_BOOL dims: [ 1 ] optional: true },
  { name: "sampling_parameters" data_type: TYPE_STRING dims: [ 1 ] optional: true }
]
output [ { name: "text_output" data_type: TYPE_STRING dims: [ -1 ] } ]
"""
GREEDY = {"temperature": 0, "max_tokens": 16}


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    repository = Repository(tmp_path_factory.mktemp("strict"))
    with TritonServer(repository.folder, extra=["--disable-auto-complete-config"]) as server:
        yield server, repository
        assert server.alive()


def test_a_decoupled_model_streams(strict):
    server, repository = strict
    config = DECLARED + "model_transaction_policy { decoupled: true }\n"
    load(server, repository.add("strict-decoupled", config=config))
    body = {"text_input": PROMPT, "parameters": GREEDY}
    status, answer = generate(server, "strict-decoupled", body)
    assert (status, answer["text_output"]) == (200, PROMPT + golden_text())
    status, events = generate_stream(server, "strict-decoupled", {**body, "stream": True})
    assert (status, "".join(e["text_output"] for e in events)) == (200, golden_text())


def test_without_a_policy_it_serves_whole_answers_and_warns(strict):
    server, repository = strict
    load(server, repository.add("strict-plain", config=DECLARED))
    status, answer = generate(server, "strict-plain", {"text_input": PROMPT, "parameters": GREEDY})
    assert (status, answer["text_output"]) == (200, PROMPT + golden_text())
    assert any("decoupled" in line for line in server.log_since().splitlines() if line.startswith("W"))


def test_an_input_that_is_not_declared_is_refused_by_the_server(strict):
    server, repository = strict
    load(server, repository.add("strict-few", config=DECLARED))
    # Undeclared keys of a body become request parameters, so this one is an unknown sampling parameter.
    status, answer = generate(server, "strict-few", {"text_input": PROMPT, "return_finish_reason": True})
    assert status == 400 and "return_finish_reason" in answer["error"], answer
