"""Case 7: parameters that vLLM dropped are ignored where they ask for nothing, and refused by name where they do."""
import json

import pytest
from clients import PROMPT, generate, generate_stream

PREFIX = "Error generating stream: "
NEUTRAL = {"n": 1, "best_of": 1, "presence_penalty": 1.0, "temperature": 1.0, "top_p": 0.95, "top_k": -1,
           "use_beam_search": False, "length_penalty": 1, "early_stopping": False, "stop": None, "max_tokens": 20}


def ask(server, parameters):
    return generate(server, "opt-tiny", {"text_input": "Hi", "sampling_parameters": json.dumps(parameters)})


def test_neutral_values(tiny):
    assert ask(tiny, NEUTRAL)[0] == 200
    more = {"best_of": 3, "n": 3, "temperature": 1, "truncate_prompt_tokens": None, "logits_processors": None,
            "watermarking": None, "prompt_logprob_start": 0, "prompt_logprob_token_ids": None,
            "trace_decode_token_ids": None}
    assert ask(tiny, more)[0] == 200
    # As HTTP's parameters they are scalars, and texts count too.
    scalars = {"best_of": 1, "use_beam_search": "false", "length_penalty": "1.0", "temperature": 0}
    assert generate(tiny, "opt-tiny", {"text_input": "Hi", "parameters": scalars})[0] == 200


@pytest.mark.parametrize("name, value", [
    ("best_of", 4), ("use_beam_search", True), ("length_penalty", 0.5), ("early_stopping", True),
    ("logits_processors", ["x"]), ("truncate_prompt_tokens", 3), ("watermarking", True), ("prompt_logprob_start", 1),
    ("prompt_logprob_token_ids", [1]), ("trace_decode_token_ids", [1])])
def test_what_would_change_an_answer(tiny, name, value):
    status, answer = ask(tiny, {"max_tokens": 2, name: value})
    assert (status, answer["error"]) == (400, f"{PREFIX}Unexpected keyword argument '{name}'")


def test_guided_decoding_is_an_alias(tiny):
    sampling = {"temperature": 0, "max_tokens": 8}
    old = {"choice": ["alpha", "beta"], "backend": "xgrammar", "whitespace_pattern": None}
    answers = [ask(tiny, {**sampling, name: value}) for name, value in (
        ("guided_decoding", old), ("structured_outputs", {"choice": ["alpha", "beta"]}),
        ("guided_decoding", json.dumps(old)))]
    assert answers[0][0] == 200 and answers[0] == answers[1] == answers[2]
    assert answers[0][1]["text_output"].removeprefix("Hi") in ("alpha", "beta")
    status, answer = ask(tiny, {"guided_decoding": {"regex": "a"}, "structured_outputs": {"regex": "a"}})
    assert status == 400 and "names of one parameter" in answer["error"]


def test_a_stream_interval_of_a_request(tiny):
    def events(**more):
        body = {"text_input": PROMPT, "stream": True, "return_num_output_tokens": True,
                "sampling_parameters": json.dumps({"temperature": 0, "max_tokens": 16, "ignore_eos": True, **more})}
        status, events = generate_stream(tiny, "opt-tiny", body)
        assert status == 200
        return [event["num_output_tokens"] for event in events]
    few = events(stream_interval=8)
    assert sum(few) == 16 and few[0] == 1 and all(tokens >= 7 for tokens in few[1:-1]), few
    assert sum(events()) == 16
    status, answer = ask(tiny, {"stream_interval": 0})
    assert (status, answer["error"]) == (400, PREFIX + "stream_interval must be at least 1, got 0.")
