"""Configurations that give the tensors other names, and folders laid out like older deployments."""
import json
import urllib.request

from clients import PROMPT, generate, generate_stream, golden_text, grpc_stream, texts
from conftest import CONFIG, ENGINE, MODELS, load

SAMPLING = json.dumps({"temperature": "0", "max_tokens": "16"})


def renamed(text, stream, sampling, output):
    """config.pbtxt that declares these names for the four roles."""
    def field(name, kind, dims, optional):
        return f'{{ name: "{name}" data_type: {kind} dims: [ {dims} ]{" optional: true" if optional else ""} }}'
    inputs = [field(text, "TYPE_STRING", 1, False), field(stream, "TYPE_BOOL", 1, True),
              field(sampling, "TYPE_STRING", 1, True)]
    return (f'{CONFIG}max_batch_size: 0\nmodel_transaction_policy {{ decoupled: true }}\n'
            f'input [ {", ".join(inputs)} ]\noutput [ {field(output, "TYPE_STRING", -1, False)} ]\n')


TUTORIAL = ("PROMPT", "STREAM", "SAMPLING_PARAMETERS", "TEXT")
SMALL = ("prompt", "stream", "sampling_parameters", "response")


def names_of(server, model, kind):
    with urllib.request.urlopen(f"{server.url}/v2/models/{model}") as answer:
        return [t["name"] for t in json.loads(answer.read())[kind]]


def test_the_canonical_names_of_taken_roles_are_not_added(server, repository):
    load(server, repository.add("tutorial-names", config=renamed(*TUTORIAL)))
    inputs = names_of(server, "tutorial-names", "inputs")
    outputs = names_of(server, "tutorial-names", "outputs")
    assert inputs[:3] == list(TUTORIAL[:3])
    assert not {"text_input", "stream", "sampling_parameters"} & set(inputs)
    assert "TEXT" in outputs and "text_output" not in outputs
    assert {"return_num_output_tokens", "exclude_input_in_output"} <= set(inputs)
    assert {"num_output_tokens", "finish_reason"} <= set(outputs)


def test_tutorial_names_answer_with_the_prompt_and_all_text_so_far(server, repository):
    load(server, repository.add("tutorial", config=renamed(*TUTORIAL)))
    whole = PROMPT + golden_text()
    status, answer = generate(server, "tutorial", {"PROMPT": PROMPT, "STREAM": False, "SAMPLING_PARAMETERS": SAMPLING})
    assert (status, answer["TEXT"]) == (200, whole)
    status, events = generate_stream(
        server, "tutorial", {"PROMPT": PROMPT, "STREAM": True, "SAMPLING_PARAMETERS": SAMPLING})
    seen = [e["TEXT"] for e in events]
    assert status == 200 and seen[-1] == whole
    assert all(text.startswith(PROMPT) for text in seen)
    assert all(later.startswith(earlier) for earlier, later in zip(seen, seen[1:]))
    answers = grpc_stream(server, "tutorial", {"PROMPT": PROMPT, "STREAM": True, "SAMPLING_PARAMETERS": SAMPLING})
    assert texts([o for o, _ in answers if o][-1], "TEXT") == [whole]


def test_small_names_answer_with_new_text_only(server, repository):
    load(server, repository.add("small", config=renamed(*SMALL)))
    body = {"prompt": PROMPT, "stream": False, "sampling_parameters": SAMPLING}
    status, answer = generate(server, "small", body)
    assert (status, answer["response"]) == (200, golden_text())
    status, events = generate_stream(server, "small", {**body, "stream": True})
    assert (status, "".join(e["response"] for e in events)) == (200, golden_text())
    answers = grpc_stream(server, "small", {**body, "stream": True})
    assert "".join(texts(o, "response")[0] for o, _ in answers if o) == golden_text()


def test_engine_arguments_beside_the_version_folder(server, repository):
    arguments = json.dumps({**ENGINE, "model": str(MODELS / "opt-tiny")})
    load(server, repository.add("older-layout", model_json=False, files={"vllm_engine_args.json": arguments}))
    status, answer = generate(server, "older-layout", {"text_input": PROMPT, "parameters": {"temperature": 0}})
    assert (status, answer["text_output"]) == (200, PROMPT + golden_text())


def test_a_relative_model_path_starts_at_the_version_folder(server, repository):
    repository.add("relative", engine={"model": "weights"})
    (repository.folder / "relative" / "1" / "weights").symlink_to(MODELS / "opt-tiny")
    load(server, "relative")
    status, answer = generate(server, "relative", {"text_input": PROMPT, "parameters": {"temperature": 0}})
    assert (status, answer["text_output"]) == (200, PROMPT + golden_text())
