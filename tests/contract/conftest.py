"""Fixtures: stock servers with the built backend, and model folders made for a test."""
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "ci"))

from server import ROOT, TritonServer, built_library  # noqa: E402

MODELS = ROOT / "tests" / "goldens" / "models"
CONFIG = 'backend: "vllm"\ninstance_group [ { count: 1 kind: KIND_MODEL } ]\n'
ENGINE = {"enforce_eager": True, "max_model_len": 256, "dtype": "float32", "max_num_seqs": 64}
GOLDEN_MODELS = ("gpt2-tiny", "llama-tiny", "opt-tiny", "qwen2-tiny")


class Repository:
    """A model repository in a temporary folder."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def add(self, name, *, config=CONFIG, engine=None, checkpoint=MODELS / "opt-tiny", model_json=None, files=None):
        """A model folder. `engine` adds to or replaces engine arguments, `model_json` replaces the whole
        file (False: there is none), `files` are further files by path."""
        version = self.folder / name / "1"
        version.mkdir(parents=True)
        (version.parent / "config.pbtxt").write_text(config)
        if model_json is None:
            model_json = json.dumps({**ENGINE, "model": str(checkpoint), **(engine or {})})
        if model_json is not False:
            (version / "model.json").write_text(model_json)
        for path, text in (files or {}).items():
            (version.parent / path).write_text(text)
        return name


def pytest_sessionstart(session):
    if not built_library().exists():
        print(f"\n{built_library()} does not exist: only tests without a server can pass", file=sys.stderr)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    return Repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="module")
def server(repository):
    """A server without models: a test adds folders and loads them. It must survive every test and stop cleanly."""
    with TritonServer(repository.folder) as running:
        yield running
        assert running.alive(), running.log_tail()


@pytest.fixture(scope="module")
def tiny(server, repository):
    """The same server with opt-tiny loaded."""
    load(server, repository.add("opt-tiny"))
    return server


def load(server, name):
    status, text = server.load_model(name)
    assert status == 200, text
