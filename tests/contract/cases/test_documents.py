"""What docs/troubleshooting.md and docs/clients.md quote of the server is what the server says, case by case."""
import re
import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpc

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[3] / "ci")]

from clients import PROMPT, golden_text  # noqa: E402
from conftest import CONFIG, Repository  # noqa: E402
from server import ROOT, ServerFailed, TritonServer, free_ports  # noqa: E402
from tritonclient.utils import InferenceServerException  # noqa: E402

PAGE = (ROOT / "docs/troubleshooting.md").read_text()
CLIENTS = (ROOT / "docs/clients.md").read_text()
OLD_TUTORIAL = """name: "m"
backend: "%s"
model_transaction_policy { decoupled: True }
input [ { name: "PROMPT" data_type: TYPE_STRING dims: [ 1 ] },
        { name: "STREAM" data_type: TYPE_BOOL dims: [ 1 ] optional: true },
        { name: "SAMPLING_PARAMETERS" data_type: TYPE_STRING dims: [ 1 ] optional: true } ]
output [ { name: "TEXT" data_type: TYPE_STRING dims: [ -1 ] } ]
instance_group [ { count: 1 kind: KIND_MODEL } ]
"""


def without_config(repository):
    (repository.folder / "m/config.pbtxt").unlink()


def without_version(repository):
    shutil.rmtree(repository.folder / "m/1")


def with_config(text):
    return lambda repository: (repository.folder / "m/config.pbtxt").write_text(text)


def without_model_json(repository):
    (repository.folder / "m/1/model.json").unlink()


def one_folder_too_high(repository):
    (repository.folder / "models").mkdir()
    (repository.folder / "m").rename(repository.folder / "models/m")


@pytest.mark.parametrize("quote, spoil", [
    ("Could not determine backend for model 'm' with no backend in model configuration", without_config),
    ("Could not determine backend for model 'm' with no backend in model configuration", one_folder_too_high),
    ("at least one version must be available under the version policy of model 'm'", without_version),
    ("unable to find backend library for backend 'vLLM'", with_config('backend: "vLLM"\n')),
    ("unable to find backend library for backend 'python'", with_config(OLD_TUTORIAL % "python")),
    ("failed to read text proto from", with_config('backend: "vllm\n')),
    ("unexpected directory name 'm' for model 'other'", with_config('name: "other"\nbackend: "vllm"\n')),
    ("'model.json' containing vllm engine args must be provided", without_model_json),
    ("has kind KIND_GPU but no GPUs are available",
     with_config('backend: "vllm"\ninstance_group [ { kind: KIND_GPU } ]\n')),
])
def test_the_server_says_it_at_the_start(tmp_path, quote, spoil):
    assert f"`{quote}`" in PAGE
    repository = Repository(tmp_path / "models")
    repository.add("m")
    spoil(repository)
    with pytest.raises(ServerFailed):
        with TritonServer(repository.folder, control="none", log=tmp_path / "log"):
            pass
    log = (tmp_path / "log").read_text()
    assert quote.replace("'m'", "'models'" if spoil is one_folder_too_high else "'m'") in log, log[-3000:]
    assert "error: creating server: Internal - failed to load all models" in log


def test_a_library_that_is_not_there_is_said(tmp_path):
    assert "`unable to find backend library for backend 'vllm'`" in PAGE
    repository = Repository(tmp_path / "models")
    repository.add("m")
    empty = tmp_path / "backends"
    empty.mkdir()
    with pytest.raises(ServerFailed):
        with TritonServer(repository.folder, control="none", log=tmp_path / "log",
                          extra=[f"--backend-directory={empty}"]):
            pass
    assert "unable to find backend library for backend 'vllm'" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("place", [0, 1, 2], ids=["http", "grpc", "metrics"])
def test_a_port_in_use_is_said(tmp_path, place):
    assert "`already in use`" in PAGE
    repository = Repository(tmp_path / "models")
    repository.add("m")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = free_ports(3)
        ports[place] = taken.getsockname()[1]
        with pytest.raises(ServerFailed):
            with TritonServer(repository.folder, control="none", log=tmp_path / "log", ports=ports):
                pass
    assert "already in use" in (tmp_path / "log").read_text()


def test_an_empty_repository_is_ready(tmp_path):
    assert "nothing, and it is ready, but no model is there" in PAGE
    with TritonServer(tmp_path, control="none") as server:
        assert server.ready()


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A server with a decoupled model and one that is not."""
    repository = Repository(tmp_path_factory.mktemp("both"))
    repository.add("streams")
    repository.add("single", config=CONFIG + "model_transaction_policy { decoupled: false }\n")
    with TritonServer(repository.folder, control="none") as server:
        yield server


ANSWER = PROMPT + golden_text(3)
SHORT = {"temperature": 0, "max_tokens": 3}


def http(server, model, call, stream=False):
    return server.post(f"v2/models/{model}/{call}", {"text_input": PROMPT, "stream": stream, "parameters": SHORT})


def infer(server, model):
    inputs = [{"name": "text_input", "shape": [1], "datatype": "BYTES", "data": [PROMPT]}]
    return server.post(f"v2/models/{model}/infer", {"inputs": inputs, "parameters": SHORT})


def prompt_tensor():
    tensor = grpc.InferInput("text_input", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([PROMPT.encode()], dtype=np.object_))
    return [tensor]


def quoted(words):
    assert words in CLIENTS
    return words


def test_calls_and_policies_over_http(both):
    for model in ("streams", "single"):
        status, text = http(both, model, "generate")
        assert status == 200 and f'"text_output":"{ANSWER}"' in text
        status, text = http(both, model, "generate_stream")
        assert status == 200 and text.count("data:") == 1 and ANSWER in text

    status, text = http(both, "streams", "generate", stream=True)
    assert status == 200 and quoted("generate expects model to produce exactly 1 response") in text
    status, text = http(both, "streams", "generate_stream", stream=True)
    assert status == 200 and text.count("data:") >= 2
    assert http(both, "single", "generate", stream=True)[0] == 400
    assert re.match(r'data: {"error":', http(both, "single", "generate_stream", stream=True)[1])

    status, text = infer(both, "streams")
    assert status == 501 and quoted("HTTP end point doesn't support models with decoupled transaction policy") in text
    status, text = infer(both, "single")
    assert status == 200 and ANSWER in text


def test_calls_and_policies_over_grpc(both):
    def streamed(client, model):
        answers = []
        client.start_stream(lambda result, error: answers.append(error or result.as_numpy("text_output")[0].decode()))
        client.async_stream_infer(model, prompt_tensor(), parameters=SHORT)
        client.stop_stream()
        return answers

    with grpc.InferenceServerClient(both.grpc) as client:
        with pytest.raises(InferenceServerException) as refused:
            client.infer("streams", prompt_tensor(), parameters=SHORT)
        assert "UNIMPLEMENTED" in refused.value.status()
        assert quoted("ModelInfer RPC doesn't support models with decoupled transaction policy") in refused.value.message()
        assert client.infer("single", prompt_tensor(), parameters=SHORT).as_numpy("text_output")[0].decode() == ANSWER
        assert streamed(client, "streams") == streamed(client, "single") == [ANSWER]


@pytest.mark.parametrize("quote, path, body", [
    ("doesn't support models with decoupled transaction policy", "v2/models/streams/infer",
     {"inputs": [{"name": "text_input", "shape": [1], "datatype": "BYTES", "data": ["a"]}]}),
    ("generate expects model to produce exactly 1 response", "v2/models/streams/generate",
     {"text_input": "a", "stream": True, "parameters": {"max_tokens": 3}}),
    ("Request for unknown model", "v2/models/streems/generate", {"text_input": "a"}),
    ("unexpected inference input", "v2/models/single/infer",
     {"inputs": [{"name": "max_tokens", "shape": [1], "datatype": "INT32", "data": [3]},
                 {"name": "text_input", "shape": [1], "datatype": "BYTES", "data": ["a"]}]}),
])
def test_the_server_says_it_to_a_request(both, quote, path, body):
    assert f"`{quote}`" in PAGE or f"`{quote}` (501)" in PAGE
    _, text = both.post(path, body)
    assert quote in text


@pytest.mark.parametrize("version", ["0.5.5", "0.7.0"])
def test_an_old_tutorials_folder_serves_after_one_word(tmp_path, version):
    """config.pbtxt for the Python backend with the old names, model.py in 1/, vllm_engine_args.json beside it."""
    assert 'backend: "python"' in (ROOT / "docs/migrate.md").read_text()
    repository = Repository(tmp_path / "models")
    repository.add("m", config=OLD_TUTORIAL % "vllm", files={"1/model.py": "raise RuntimeError('this is Python')\n"})
    (repository.folder / "m/1/model.json").rename(repository.folder / "m/vllm_engine_args.json")
    with TritonServer(repository.folder, version=version, control="none") as server:
        body = {"PROMPT": PROMPT, "STREAM": False, "SAMPLING_PARAMETERS": '{"temperature": 0, "max_tokens": 3}'}
        status, text = server.post("v2/models/m/generate", body)
        assert status == 200 and f'"TEXT":"{ANSWER}"' in text
