"""Warm-up requests of config.pbtxt (`model_warmup`): one that fails makes the load fail, and the server goes on."""
import json
import struct

import pytest
from clients import PROMPT, grpc_stream, golden_text, texts
from conftest import CONFIG, Repository, load
from server import TritonServer, installed_versions

DECOUPLED = "model_transaction_policy { decoupled: true }\n"
GREEDY = {"temperature": 0, "max_tokens": 16}
# Stock servers die of such a load, where nothing is done about it, in one case of two or three.
LOADS = 12


def tensor(text):
    """A file of a warm-up: a BYTES tensor with one text."""
    return struct.pack("<I", len(text.encode())) + text.encode()


def add(repository, name, text, parameters, requests=1):
    """A model whose warm-up is a sample of so many equal requests."""
    one = 'inputs {{ key: "{}" value: {{ data_type: TYPE_STRING dims: [ 1 ] input_data_file: "{}" }} }}'
    inputs = " ".join(one.format(key, key) for key in ("text_input", "sampling_parameters"))
    repository.add(name, config=f'{CONFIG}{DECOUPLED}model_warmup [ {{ name: "w" batch_size: {requests} {inputs} }} ]\n')
    folder = repository.folder / name / "warmup"
    folder.mkdir()
    (folder / "text_input").write_bytes(tensor(text))
    (folder / "sampling_parameters").write_bytes(tensor(json.dumps(parameters)))
    return name


def serves(server, name):
    answers = grpc_stream(server, name, {"text_input": PROMPT, "stream": True}, GREEDY)
    assert "".join(texts(o)[0] for o, _ in answers if o) == golden_text()


@pytest.mark.parametrize("version", installed_versions())
def test_a_warm_up_that_fails_is_the_end_of_the_load_alone(version, tmp_path):
    repository = Repository(tmp_path)
    with TritonServer(repository.folder, version=version) as server:
        load(server, add(repository, "good", PROMPT, GREEDY, requests=2))
        refused = {
            # Where it is read, while the server's thread is in Execute.
            add(repository, "one", PROMPT, {"temperature": -1}): (1, "temperature must be non-negative, got -1.0"),
            # When the engine looks at it, later.
            add(repository, "three", PROMPT * 99, GREEDY, requests=3): (3, "maximum context length is 256 tokens"),
        }
        for name, (times, words) in refused.items():
            for _ in range(LOADS):
                status, text = server.load_model(name)
                assert status == 400, text
                said = json.loads(text)["error"]
                assert "failed to run warmup sample 'w': " in said
                assert said.count(words) == times, said
                assert server.alive(), server.log_tail()
        serves(server, "good")
        assert "panicked" not in server.log_since(0)
