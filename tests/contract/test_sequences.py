"""n > 1: every response carries all sequences in index order, and sequence i is the one of seed s + i."""
import json

import pytest
from clients import PROMPT, batch, generate, generate_stream, grpc_stream, texts
from conftest import CONFIG, Repository, load
from server import TritonServer
from test_metrics import REPORT, of, series, settled, scrape

N = 3
SAMPLED = {"temperature": 1.0, "seed": 11, "max_tokens": 12}
ALL = {f"return_{name}": True for name in ("finish_reason", "num_input_tokens", "num_output_tokens")}


@pytest.fixture(scope="module")
def alone(tiny):
    """What each seed says by itself: sequences that end early (a stop string) among them."""
    def one(seed, **more):
        body = {"text_input": PROMPT, "exclude_input_in_output": True, "parameters": {**SAMPLED, "seed": seed, **more}}
        status, answer = generate(tiny, "opt-tiny", body)
        assert status == 200, answer
        return answer["text_output"]
    return one


def expected(alone, **more):
    return [alone(SAMPLED["seed"] + i, **more) for i in range(N)]


def test_whole_answers(tiny, alone):
    status, answer = generate(tiny, "opt-tiny", {"text_input": PROMPT, "parameters": {**SAMPLED, "n": N}, **ALL})
    assert status == 200, answer
    assert answer["text_output"] == [PROMPT + text for text in expected(alone)]
    assert answer["finish_reason"] == ["length"] * N
    assert answer["num_output_tokens"] == [SAMPLED["max_tokens"]] * N
    assert answer["num_input_tokens"] == 11


def stop_of(alone):
    """A text that ends the middle sequence early and occurs in no other."""
    texts = expected(alone)
    middle = texts[1]
    return next(middle[i:i + 3] for i in range(2, len(middle) - 3)
                if all(middle[i:i + 3] not in other for other in (texts[0], texts[2])))


@pytest.mark.parametrize("transport", ["sse", "grpc"])
def test_streams(tiny, alone, transport):
    stop = stop_of(alone)
    parameters = {**SAMPLED, "n": N, "stop": stop}
    inputs = {"text_input": PROMPT, "stream": True, "sampling_parameters": json.dumps(parameters), **ALL}
    if transport == "sse":
        status, events = generate_stream(tiny, "opt-tiny", inputs)
        assert status == 200
        texts_of = [e["text_output"] for e in events]
        reasons = [e["finish_reason"] for e in events]
        counts = [e["num_output_tokens"] for e in events]
    else:
        answers = grpc_stream(tiny, "opt-tiny", inputs)
        assert [final for _, final in answers] == [False] * (len(answers) - 1) + [True]
        assert all(o["text_output"].shape == (N,) for o, _ in answers)
        texts_of = [texts(o) for o, _ in answers]
        reasons = [texts(o, "finish_reason") for o, _ in answers]
        counts = [o["num_output_tokens"].tolist() for o, _ in answers]
    whole = ["".join(parts) for parts in zip(*texts_of)]
    assert whole == expected(alone, stop=stop)
    assert reasons[-1] == ["length", "stop", "length"] and len(texts_of) > 1
    for index, mine in enumerate(zip(*reasons)):
        ended = mine.index(reasons[-1][index])
        assert set(mine[:ended]) <= {"None"} and len(set(mine[ended:])) == 1, "a reason stays"
        assert sum(c[index] for c in counts[ended + 1:]) == 0
        assert all(t[index] == "" for t in texts_of[ended + 1:])


def test_a_batch_of_sequences(server, repository, alone):
    load(server, repository.add("rows", config=CONFIG + "max_batch_size: 4\n"))
    rows = [batch("text_input", [PROMPT, PROMPT])]
    (outputs, final), *rest = grpc_stream(server, "rows", rows, {**SAMPLED, "n": N})
    assert outputs["text_output"].shape == (2, N) and final and not rest
    assert texts(outputs) == 2 * [PROMPT + text for text in expected(alone)]


def test_too_many_are_refused(tiny):
    status, answer = generate(tiny, "opt-tiny", {"text_input": "a", "parameters": {"n": 16384}})
    assert status == 400 and answer["error"].startswith("Error generating stream: n is 16384, but at most "), answer


def test_the_limit_can_be_set_as_the_refusal_says(tmp_path):
    repository = Repository(tmp_path)
    with TritonServer(repository.folder, env={"VLLM_MAX_N_SEQUENCES": "2"}) as server:
        load(server, repository.add("few"))
        status, answer = generate(server, "few", {"text_input": "a", "parameters": {"n": 3}})
        assert (status, answer["error"]) == (400, "Error generating stream: n must be at most 2, got 3. To increase this "
                                                  "limit, set the VLLM_MAX_N_SEQUENCES environment variable.")
        assert len(generate(server, "few", {"text_input": "a", "parameters": {"n": 2}})[1]["text_output"]) == 2


def test_metrics_count_a_request_once_and_its_sequences_each(server, repository):
    load(server, repository.add("counted-n", config=REPORT))
    assert of(series(scrape(server)), "vllm:request_params_n_count", "counted-n") == 0
    body = {"text_input": PROMPT, "parameters": {**SAMPLED, "n": N, "ignore_eos": True}}
    assert generate(server, "counted-n", body)[0] == 200
    values = settled(server, "vllm:request_params_n_count", "counted-n", 1)
    names = {
        "request_params_n_count": 1, "request_params_n_sum": N, "prompt_tokens_total": N * 11,
        "generation_tokens_total": N * SAMPLED["max_tokens"], "time_to_first_token_seconds_count": N,
        "e2e_request_latency_seconds_count": N, "request_prompt_tokens_count": N,
        "request_generation_tokens_count": N, "request_generation_tokens_sum": N * SAMPLED["max_tokens"],
    }
    assert {n: of(values, f"vllm:{n}", "counted-n") for n in names} == names
