"""What NVIDIA's own tests of the backend assert, on our tiny model: additional outputs, both ways to send parameters,
ensembles, business logic scripts, several models in one server that come and go. Cancellation is in test_cancel.py, metrics in
test_metrics.py, accuracy in test_replay.py (their prompts and more, on every transport)."""
import itertools
import json
import os
import sysconfig
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from clients import LIMIT_S, PROMPT, generate, golden_text, grpc_stream, texts
from conftest import CONFIG, MODELS, Repository, load
from server import NEWEST, ROOT, TritonServer

PARAMETERS = {"temperature": "0", "top_p": "1", "max_tokens": "16"}
OUTPUTS = ("finish_reason", "cumulative_logprob", "num_output_tokens")


def asked(tiny, stream, logprobs, returned, as_tensor=True):
    parameters = dict(PARAMETERS)
    if logprobs is not None:
        parameters["logprobs"] = str(logprobs)
    inputs = {"text_input": PROMPT, "stream": stream, **{f"return_{name}": True for name in returned}}
    if as_tensor:
        inputs["sampling_parameters"] = json.dumps(parameters)
        parameters = None
    answers = grpc_stream(tiny, "opt-tiny", inputs, parameters)
    assert [final for _, final in answers] == [False] * (len(answers) - 1) + [True]
    assert len(answers) > 1 if stream else len(answers) == 1
    return [outputs for outputs, _ in answers]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("returned", [c for n in range(4) for c in itertools.combinations(OUTPUTS, n)], ids="+".join)
def test_additional_outputs(tiny, stream, returned):
    answers = asked(tiny, stream, None, returned)
    for outputs in answers:
        assert set(outputs) == {"text_output", *returned}, "what was not asked for is absent"
    if "finish_reason" in returned:
        reasons = [texts(outputs, "finish_reason")[0] for outputs in answers]
        assert reasons == ["None"] * (len(answers) - 1) + ["length"]
    if "cumulative_logprob" in returned:
        sums = [outputs["cumulative_logprob"][0] for outputs in answers]
        assert all(a > b for a, b in zip(sums, sums[1:])) and sums[-1] < 0
    if "num_output_tokens" in returned:
        assert sum(outputs["num_output_tokens"][0] for outputs in answers) == 16


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("logprobs", [None, 0, 1, 5])
def test_logprobs(tiny, stream, logprobs):
    for outputs in asked(tiny, stream, logprobs, ("logprobs", "num_output_tokens")):
        positions = json.loads(texts(outputs, "logprobs")[0])
        text = texts(outputs)[0].removeprefix("" if stream else PROMPT)
        if logprobs is None:
            assert positions is None
            continue
        assert isinstance(positions, list) and len(positions) == outputs["num_output_tokens"][0]
        told = ""
        for position in positions:
            assert 1 <= len(position) <= logprobs + 1
            assert all(len(e) == 3 and type(e["logprob"]) is float and type(e["rank"]) is int
                       and type(e["decoded_token"]) is str for e in position.values())
            (best,) = [e for e in position.values() if e["rank"] == 1]
            told += best["decoded_token"]
        assert told == text


def test_parameters_of_the_request_count_like_those_of_the_tensor(tiny):
    one, other = (asked(tiny, False, 2, ("logprobs",), as_tensor) for as_tensor in (True, False))
    assert texts(one[0], "logprobs") == texts(other[0], "logprobs")


ENSEMBLE = """platform: "ensemble"
max_batch_size: 0
input [ { name: "question" data_type: TYPE_STRING dims: [ 1 ] },
        { name: "settings" data_type: TYPE_STRING dims: [ 1 ] },
        { name: "live" data_type: TYPE_BOOL dims: [ 1 ] } ]
output [ { name: "answer" data_type: TYPE_STRING dims: [ -1 ] } ]
ensemble_scheduling { step [ { model_name: "opt-tiny" model_version: -1
  input_map { key: "text_input" value: "question" }
  input_map { key: "sampling_parameters" value: "settings" }
  input_map { key: "stream" value: "live" }
  output_map { key: "text_output" value: "answer" } } ] }
"""


@pytest.mark.parametrize("stream", [False, True])
def test_an_ensemble_with_our_model(tiny, repository, stream):
    name = f"ensemble-{stream}"
    repository.add(name, config=ENSEMBLE, model_json=False)
    load(tiny, name)
    inputs = {"question": PROMPT, "settings": json.dumps(PARAMETERS), "live": stream}
    answers = grpc_stream(tiny, name, inputs)
    told = "".join(texts(outputs, "answer")[0] for outputs, _ in answers if outputs)
    assert told == ("" if stream else PROMPT) + golden_text()
    if not stream:
        status, answer = generate(tiny, name, inputs)
        assert (status, answer["answer"]) == (200, PROMPT + golden_text())


def ready(server, name):
    try:
        with urllib.request.urlopen(f"{server.url}/v2/models/{name}/ready") as answer:
            return answer.status == 200
    except urllib.error.HTTPError:
        return False


def test_models_come_and_go_beside_an_ensemble(server, repository):
    """Load, load a model that fails, ensemble, unload, load again: the others never notice."""
    body = {"text_input": PROMPT, "exclude_input_in_output": True, "parameters": PARAMETERS}
    for name in ("member", "bystander"):
        load(server, repository.add(name))
    repository.add("on-member", config=ENSEMBLE.replace("opt-tiny", "member"), model_json=False)
    load(server, "on-member")
    for name, engine, text in (("invalid-1", {"unknown_argument": 1}, "unknown_argument"),
                               ("invalid-2", {"model": "invalid_model"}, "invalid_model")):
        status, answer = server.load_model(repository.add(name, engine=engine))
        assert status != 200 and text in answer and not ready(server, name)
    inputs = {"question": PROMPT, "settings": json.dumps(PARAMETERS), "live": False}
    for _ in range(2):
        assert ready(server, "member") and ready(server, "on-member")
        assert generate(server, "on-member", inputs)[1]["answer"] == PROMPT + golden_text()
        assert generate(server, "member", body)[1]["text_output"] == golden_text()
        assert server.unload_model("member")[0] == 200
        limit = time.monotonic() + LIMIT_S
        while ready(server, "member"):
            assert time.monotonic() < limit
            time.sleep(0.05)
        assert not ready(server, "on-member") and ready(server, "bystander")
        assert generate(server, "member", body)[0] != 200 != generate(server, "on-member", inputs)[0]
        assert generate(server, "bystander", body)[1]["text_output"] == golden_text()
        load(server, "member")


SCRIPT = '''
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def ask(self, request):
        inputs = [pb_utils.get_input_tensor_by_name(request, name) for name in ("text_input", "sampling_parameters")]
        inputs.append(pb_utils.Tensor("stream", np.array([True])))
        inner = pb_utils.InferenceRequest(model_name="opt-tiny", requested_output_names=["text_output"], inputs=inputs)
        said = []
        for response in inner.exec(decoupled=True):
            if response.has_error():
                raise pb_utils.TritonModelException(response.error().message())
            text = pb_utils.get_output_tensor_by_name(response, "text_output")
            if text is not None:
                said += [t.decode() for t in text.as_numpy()]
        return "|".join(said)

    def execute(self, requests):
        tensors = [pb_utils.Tensor("TEXT", np.array([self.ask(r).encode()], dtype=np.object_)) for r in requests]
        return [pb_utils.InferenceResponse([tensor]) for tensor in tensors]
'''
SCRIPT_CONFIG = """backend: "python"
max_batch_size: 0
input [ { name: "text_input" data_type: TYPE_STRING dims: [ 1 ] },
        { name: "sampling_parameters" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "TEXT" data_type: TYPE_STRING dims: [ 1 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
"""


def python_backend(server):
    """Link the wheel's Python backend beside ours; the environment in which its stub finds this Python."""
    home = ROOT / "target" / "servers" / NEWEST / "pytriton" / "tritonserver"
    version = sysconfig.get_python_version()
    library = Path(sysconfig.get_config_var("LIBDIR")) / (sysconfig.get_config_var("LDLIBRARY") or "none")
    stub = home / "python_backend_stubs" / version / "triton_python_backend_stub"
    if library.suffix != ".so" or not library.exists() or not stub.exists():
        pytest.skip(f"the server's Python backend needs a shared libpython{version} and a stub for it")
    folder = server.work / "backends" / "python"
    folder.mkdir(parents=True)
    for file in [*(home / "backends" / "python").iterdir(), stub]:
        (folder / file.name).symlink_to(file)
    venv = ROOT / "target" / "venv" / "bin"
    return {"LD_LIBRARY_PATH": str(library.parent), "PATH": f"{venv}:{os.environ['PATH']}"}


def test_a_business_logic_script_that_calls_our_model(tmp_path):
    repository = Repository(tmp_path)
    repository.add("opt-tiny", checkpoint=MODELS / "opt-tiny")
    repository.add("script", config=SCRIPT_CONFIG, model_json=False, files={"1/model.py": SCRIPT})
    server = TritonServer(repository.folder)
    server.env |= python_backend(server)
    with server:
        load(server, "opt-tiny")
        load(server, "script")
        status, answer = generate(server, "script", {
            "text_input": PROMPT, "sampling_parameters": json.dumps(PARAMETERS)})
        assert status == 200, answer
        assert answer["TEXT"].replace("|", "") == golden_text() and "|" in answer["TEXT"]
        status, answer = generate(server, "script", {"text_input": PROMPT, "sampling_parameters": '{"top_p": 7}'})
        assert "top_p must be in (0, 1]" in answer["error"]


def test_two_models_in_one_server_answer_side_by_side(tiny, repository):
    load(tiny, repository.add("second", checkpoint=MODELS / "gpt2-tiny", config=CONFIG))
    body = {"text_input": PROMPT, "exclude_input_in_output": True, "parameters": {"temperature": 0, "max_tokens": 16}}
    first, second = (generate(tiny, name, body) for name in ("opt-tiny", "second"))
    assert first[0] == second[0] == 200 and first[1]["text_output"] == golden_text() != second[1]["text_output"]
    assert tiny.unload_model("second")[0] == 200
    assert generate(tiny, "opt-tiny", body) == first
    load(tiny, "second")
    assert generate(tiny, "second", body) == second
