"""The oldest, a middle and the newest stock server out of PyPI wheels load the same file and answer the same."""
import pytest
from clients import PROMPT, generate, generate_stream, golden_text, grpc_stream, texts
from conftest import CONFIG, Repository, load
from server import TritonServer, installed_versions

GREEDY = {"temperature": 0, "max_tokens": 16}
DECOUPLED = "model_transaction_policy { decoupled: true }\n"
# tritonserver 2.36 does not let a backend set the policy: there it stands in config.pbtxt.
WITHOUT_AUTO_POLICY = ("0.4.0",)
WITHOUT_HTTP_GENERATE = ("0.4.0",)      # tritonserver 2.36 has no /generate


@pytest.mark.parametrize("version", installed_versions())
def test_serves(version, tmp_path):
    repository = Repository(tmp_path)
    with TritonServer(repository.folder, version=version) as server:
        config = CONFIG + (DECOUPLED if version in WITHOUT_AUTO_POLICY else "")
        load(server, repository.add("opt-tiny", config=config))
        answers = grpc_stream(server, "opt-tiny", {"text_input": PROMPT, "stream": True}, GREEDY)
        assert "".join(texts(o)[0] for o, _ in answers if o) == golden_text()
        assert answers[-1][1]
        if version not in WITHOUT_HTTP_GENERATE:
            body = {"text_input": PROMPT, "parameters": GREEDY}
            status, answer = generate(server, "opt-tiny", body)
            assert (status, answer["text_output"]) == (200, PROMPT + golden_text())
            status, events = generate_stream(server, "opt-tiny", {**body, "stream": True})
            assert (status, "".join(e["text_output"] for e in events)) == (200, golden_text())
        status, text = server.load_model(repository.add("broken", engine={"bogus": 1}))
        assert status >= 400 and "bogus" in text
        assert server.unload_model("opt-tiny")[0] == 200


def test_three_versions_are_installed():
    assert len(installed_versions()) == 3
