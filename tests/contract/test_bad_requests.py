"""Requests that must be refused, each with its exact text, over HTTP and gRPC; the model goes on serving."""
import json

import pytest
from clients import PROMPT, generate, generate_stream, golden_text, grpc_stream

PREFIX = "Error generating stream: "
INVALID_INT = "invalid literal for int() with base 10: "

# parameters -> the text after PREFIX
REFUSED = [
    ({"n": 0}, "n must be at least 1, got 0."),
    ({"n": 20000, "temperature": 1}, "n must be at most 16384, got 20000. To increase this limit, set the "
                                     "VLLM_MAX_N_SEQUENCES environment variable."),
    ({"n": 2}, "n must be 1 when using greedy sampling, got 2."),
    ({"n": "1.5"}, INVALID_INT + "'1.5'"),
    ({"presence_penalty": 5}, "presence_penalty must be in [-2, 2], got 5.0."),
    ({"frequency_penalty": -5}, "frequency_penalty must be in [-2, 2], got -5.0."),
    ({"repetition_penalty": 0}, "repetition_penalty must be greater than zero, got 0.0."),
    ({"temperature": -1}, "temperature must be non-negative, got -1.0. (parameter=temperature, value=-1.0)"),
    ({"temperature": 2.5}, "temperature must be in [0, 2], got 2.5. (parameter=temperature, value=2.5)"),
    ({"temperature": "hot"}, "could not convert string to float: 'hot'"),
    ({"top_p": 0}, "top_p must be in (0, 1], got 0.0. (parameter=top_p, value=0.0)"),
    ({"top_p": 2}, "top_p must be in (0, 1], got 2.0. (parameter=top_p, value=2.0)"),
    ({"top_k": -2}, "top_k must be 0 (disable), or at least 1, got -2."),
    ({"min_p": 2}, "min_p must be in [0, 1], got 2.0."),
    ({"max_tokens": 0}, "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)"),
    ({"max_tokens": "4.9"}, INVALID_INT + "'4.9'"),
    ({"min_tokens": -1}, "min_tokens must be greater than or equal to 0, got -1."),
    ({"min_tokens": 20}, "min_tokens must be less than or equal to max_tokens=16, got 20."),
    ({"logprobs": -2}, "logprobs must be non-negative or -1, got -2. (parameter=logprobs, value=-2)"),
    ({"logprobs": 21}, "Requested sample logprobs of 21, which is greater than max allowed: 20 "
                       "(parameter=logprobs, value=21)"),
    ({"prompt_logprobs": -2}, "prompt_logprobs must be non-negative or -1, got -2. "
                              "(parameter=prompt_logprobs, value=-2)"),
    ({"seed": "abc"}, INVALID_INT + "'abc'"),
    ({"stop": ""}, "stop cannot contain an empty string."),
    ({"stop": "a", "detokenize": False}, "stop strings are only supported when detokenize is True. "
                                         "Set detokenize=True to use stop."),
    ({"foo": 1}, "Unexpected keyword argument 'foo'"),
    ({"guided_decoding": "x"}, "structured_outputs is not valid JSON: expected value at line 1 column 1"),
    ({"best_of": 2}, "Unexpected keyword argument 'best_of'"),
]
# Only possible in the tensor: parameters of a request are scalars.
REFUSED_IN_JSON = [
    ({"temperature": float("inf")}, "temperature must be a finite number, got inf. "
                                    "(parameter=temperature, value=inf)"),
    ({"repetition_penalty": float("nan")}, "repetition_penalty must be a finite number, got nan."),
    ({"stop": ["a", ""]}, "stop cannot contain an empty string."),
    ({"stop_token_ids": ["1"]}, "stop_token_ids must contain only integers, got ['1']."),
    ({"bad_words": ["a", ""]}, "bad_words cannot contain an empty string. Got bad_words=['a', '']"),
    ({"allowed_token_ids": []}, "allowed_token_ids is not None and empty! "
                                "(parameter=allowed_token_ids, value=[])"),
]


def case_name(case):
    return json.dumps(case)


def still_serves(server):
    status, answer = generate(server, "opt-tiny", {"text_input": PROMPT, "parameters": {"temperature": 0}})
    assert (status, answer["text_output"]) == (200, PROMPT + golden_text())


@pytest.mark.parametrize("parameters, text", REFUSED, ids=case_name)
def test_parameters(tiny, parameters, text):
    parameters = {"temperature": 0, **parameters}
    status, answer = generate(tiny, "opt-tiny", {"text_input": PROMPT, "parameters": parameters})
    assert (status, answer["error"]) == (400, PREFIX + text)
    status, events = generate_stream(tiny, "opt-tiny", {"text_input": PROMPT, "stream": True, "parameters": parameters})
    assert (status, events) == (400, [{"error": PREFIX + text}])
    assert grpc_stream(tiny, "opt-tiny", {"text_input": PROMPT}, parameters) == [PREFIX + text]


@pytest.mark.parametrize("parameters, text", REFUSED + REFUSED_IN_JSON, ids=case_name)
def test_sampling_parameters_tensor(tiny, parameters, text):
    sampling = json.dumps({"temperature": 0, **parameters})
    status, answer = generate(tiny, "opt-tiny", {"text_input": PROMPT, "sampling_parameters": sampling})
    assert (status, answer["error"]) == (400, PREFIX + text)


@pytest.mark.parametrize("sampling", ["", "not json", "[1,2]", '"x"', "null", '{"temperature": 0} x', '{"a":' * 2000])
def test_a_tensor_that_is_no_json_object(tiny, sampling):
    status, answer = generate(tiny, "opt-tiny", {"text_input": PROMPT, "sampling_parameters": sampling})
    assert status == 400 and "\n" not in answer["error"] and "Traceback" not in answer["error"], answer
    assert "sampling_parameters" in answer["error"] or "JSON" in answer["error"], answer
    still_serves(tiny)


def test_prompt_lengths(tiny):
    for words, expected in ((" a" * 254, None), (" a" * 255, "plus the number of requested output tokens"),
                            (" a" * 300, "This model's maximum context length is 256 tokens."),
                            ("x" * 2_000_000, "Please reduce the length")):
        body = {"text_input": words, "exclude_input_in_output": True, "return_num_output_tokens": True,
                "parameters": {"temperature": 0}}
        status, answer = generate(tiny, "opt-tiny", body)
        if expected is None:
            assert (status, answer["num_output_tokens"]) == (200, 1), answer
        else:
            assert status == 400 and answer["error"].startswith(PREFIX) and expected in answer["error"], answer
    still_serves(tiny)


def test_stream_with_echo_is_refused(tiny):
    body = {"text_input": PROMPT, "stream": True, "exclude_input_in_output": False}
    status, events = generate_stream(tiny, "opt-tiny", body)
    text = PREFIX + "When streaming, `exclude_input_in_output` = False is not allowed."
    assert (status, events) == (400, [{"error": text}])


def test_lora_without_lora(tiny):
    body = {"text_input": PROMPT, "parameters": {"lora_name": "alpaca"}}
    status, answer = generate(tiny, "opt-tiny", body)
    assert status == 400 and "LoRA feature is not enabled." in answer["error"], answer


def test_a_thousand_bad_requests_cost_nothing(tiny):
    before = tiny.resident_bytes()
    for _ in range(1000):
        assert tiny.post("v2/models/opt-tiny/generate", {"text_input": PROMPT, "parameters": {"foo": 1}})[0] == 400
    assert tiny.resident_bytes() - before < 32 << 20
    still_serves(tiny)
