"""`model: "org/name"` under a stock server: fetched from a hub on loopback, shown in Triton's log, served from the cache."""
import pytest
from clients import PROMPT, generate, golden_text
from conftest import MODELS, Repository, load
from hubs import COMMIT, StandInHub, serving
from server import TritonServer

FOLDER = MODELS / "opt-tiny"
TOKEN = "hf_secret"


class Hub(StandInHub):
    """acme/opt-tiny for those who have the token; what is asked for goes to `asked`."""
    asked = []
    repo = "acme/opt-tiny"
    folder = FOLDER

    def refusal(self):
        if "acme/" not in self.path:
            return 404
        return None if self.headers.get("Authorization") == f"Bearer {TOKEN}" else 401


@pytest.fixture(scope="module")
def hub():
    with serving(Hub) as address:
        yield address


def answers(server, name):
    status, answer = generate(server, name, {"text_input": PROMPT, "parameters": {"temperature": 0}})
    assert (status, answer["text_output"]) == (200, PROMPT + golden_text())


def test_a_model_by_its_name(hub, tmp_path):
    repository, home = Repository(tmp_path / "repository"), tmp_path / "home"
    repository.add("model", checkpoint="acme/opt-tiny")
    repository.add("no-token", checkpoint="acme/opt-tiny", engine={"hf_token": False})
    repository.add("no-such", checkpoint="other/name")
    env = {"HF_HOME": str(home), "HF_ENDPOINT": hub, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"}
    with TritonServer(repository.folder, env=env) as server:
        load(server, "model")
        answers(server, "model")
        log = server.log_since()
        assert "downloading model.safetensors: " in log and "downloading config.json: " in log
        assert TOKEN not in log
        for name, words in (("no-token", "(401)"), ("no-such", "(404)")):
            status, text = server.load_model(name)
            assert status in (400, 500) and words in text and "model.json: model: " in text, text
            answers(server, "model")
    snapshot = home / "hub/models--acme--opt-tiny/snapshots" / COMMIT
    assert (snapshot / "model.safetensors").read_bytes() == (FOLDER / "model.safetensors").read_bytes()
    Hub.asked.clear()
    offline = {**env, "HF_HUB_OFFLINE": "1"}
    with TritonServer(repository.folder, env=offline, load=["model"]) as server:
        answers(server, "model")
    assert not Hub.asked
