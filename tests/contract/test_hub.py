"""`model: "org/name"` under a stock server: fetched from a hub on loopback, shown in Triton's log, served from the cache."""
import hashlib
import http.server
import json
import threading

import pytest
from clients import PROMPT, generate, golden_text
from conftest import MODELS, Repository, load
from server import TritonServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FOLDER = MODELS / "opt-tiny"
TOKEN = "hf_secret"


class Hub(http.server.BaseHTTPRequestHandler):
    """acme/opt-tiny for those who have the token; what is asked for goes to `asked`."""
    asked = []

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        self.asked.append(self.path)
        if "acme/" not in self.path:
            return self.answer(404)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401)
        if self.path == "/api/models/acme/opt-tiny/revision/main":
            files = [{"rfilename": f.name} for f in FOLDER.iterdir()]
            return self.answer(200, json.dumps({"sha": COMMIT, "siblings": files}).encode())
        data = (FOLDER / self.path.removeprefix(f"/acme/opt-tiny/resolve/{COMMIT}/")).read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        etag = hashlib.sha256(data).hexdigest() if self.path.endswith(".safetensors") else git
        return self.answer(200, data, ETag=f'"{etag}"')

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def hub():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


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
