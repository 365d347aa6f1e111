"""The judge itself is judged, without a server: each recorded answer equals itself, and each kind of change is seen."""
import copy
import json

import golden
import pytest

RECORDS, _ = golden.load_records("goldens.json")
NO_LISTS = golden.Lists([], [])
# Rows of the table of decisions that say how an answer is better than the Python backend's.
BETTER = {1, 2, 3, 6, 10, 12, 13, 14, 17, 18, 19, 20, 21, 24}


def record(case, transport):
    return copy.deepcopy(next(r for r in RECORDS if golden.key(r) == (case, transport)))


def verdict(case, transport, change, lists=NO_LISTS):
    old = record(case, transport)
    new = copy.deepcopy(old["response"])
    change(new)
    return golden.judge(old, new, lists)


def test_every_record_equals_itself():
    assert len(RECORDS) == 385
    wrong = [golden.key(r) for r in RECORDS if golden.judge(r, copy.deepcopy(r["response"]), NO_LISTS)]
    assert not wrong


def test_every_answer_that_says_something_can_be_told_from_an_empty_one():
    blind = [golden.key(r) for r in RECORDS if not golden.judge(r, {"status": 599, "raw": "x"}, NO_LISTS)]
    assert not blind


def edit(path, value):
    def change(response):
        for step in path[:-1]:
            response = response[step]
        old = response[path[-1]]
        response[path[-1]] = value(old) if callable(value) else value
        assert response[path[-1]] != old
    return change


def shifted_logprob(by):
    def change(text):
        items = json.loads(text)
        first = next(iter(items[0].values()))
        first["logprob"] += by
        return json.dumps(items)
    return change


CHANGES = [
    ("basic.readme", "generate", edit(["json", "text_output"], lambda t: t + "!")),
    ("basic.readme", "generate", edit(["status"], 500)),
    ("basic.readme", "generate", edit(["content_type"], "text/plain")),
    ("basic.readme", "generate", lambda r: r["json"].update(extra=1)),
    ("prompt.0.stream", "generate_stream", edit(["events", 3, "text_output"], "?")),
    ("prompt.0.stream", "generate_stream", lambda r: r["events"].pop()),
    ("prompt.0.stream", "generate_stream", lambda r: r["events"].append({"error": "late"})),
    ("prompt.0.stream", "grpc_stream", edit(["responses", -1, "parameters", "triton_final_response"], False)),
    ("prompt.0.stream", "grpc_stream", edit(["responses", 0, "parameters", "triton_final_response"], True)),
    ("out.all_no_logprobs_stream", "grpc_stream", edit(["responses", 0, "outputs", 5, "data"], [9])),
    ("out.all", "grpc_stream", edit(["responses", 0, "outputs", 1, "datatype"], "FP32")),
    ("out.all", "grpc_stream", edit(["responses", 0, "outputs", 4, "shape"], [1])),
    ("out.all", "generate", edit(["json", "num_output_tokens"], 6)),
    ("out.all", "generate", edit(["json", "logprobs"], shifted_logprob(0.05))),
    ("grpc.two_requests_one_stream", "grpc_stream", edit(["responses", 1, "id"], "r7")),
    ("err.top_p_2", "grpc_stream", edit(["responses", 0, "error", "message"], "other")),
    ("seed.temp1", "generate", edit(["json", "text_output"], 5)),
]


@pytest.mark.parametrize("case, transport, change", CHANGES)
def test_a_change_is_seen(case, transport, change):
    assert verdict(case, transport, change)


SAME = [
    ("out.all", "generate", edit(["json", "logprobs"], shifted_logprob(0.001))),
    ("seed.temp1", "generate", edit(["json", "text_output"], "another sample")),
]


@pytest.mark.parametrize("case, transport, change", SAME)
def test_noise_is_not_a_change(case, transport, change):
    assert verdict(case, transport, change) is None


def test_how_a_stream_is_cut_does_not_matter():
    def merge_first_two(response):
        first, second = response["events"][:2]
        second["text_output"] = first["text_output"] + second["text_output"]
        del response["events"][0]
    assert verdict("prompt.0.stream", "generate_stream", merge_first_two) is None


CASE = "err.unknown_param_sp"
OTHER = edit(["json", "error"], "Error generating stream: a real reason")


def listed(**entry):
    return [{"case": CASE, "transports": ["generate"], **entry}]


def test_a_listed_difference_passes_only_with_its_exact_text():
    right = golden.Lists(listed(row=1, error="Error generating stream: a real reason"), [])
    wrong = golden.Lists(listed(row=1, error="Error generating stream: another reason"), [])
    assert verdict(CASE, "generate", OTHER) is not None
    assert verdict(CASE, "generate", OTHER, right) is None
    assert "not the listed answer" in verdict(CASE, "generate", OTHER, wrong)


@pytest.mark.parametrize("transport", ["generate", "generate_stream", "grpc_stream"])
def test_a_listed_field_replaces_the_recorded_one_everywhere(transport):
    def summed(response):
        for event in response.get("events", [response.get("json", {})]):
            event["cumulative_logprob"] = -1.5
        for answer in response.get("responses", []):
            next(o for o in answer["outputs"] if o["name"] == "cumulative_logprob")["data"] = [-1.5]
    case = "out.all_no_logprobs"
    entry = {"case": case, "transports": [transport], "row": 6, "fields": {"cumulative_logprob": -1.5}}
    assert verdict(case, transport, summed) is not None
    assert verdict(case, transport, summed, golden.Lists([entry], [])) is None
    other = {**entry, "fields": {"cumulative_logprob": -1.6}}
    assert "not the listed answer" in verdict(case, transport, summed, golden.Lists([other], []))


def test_a_listed_difference_that_is_none_is_stale():
    lists = golden.Lists(listed(row=1, error="whatever"), [])
    assert "stale" in verdict(CASE, "generate", lambda r: None, lists)


def test_not_built_needs_the_one_clear_error_and_goes_stale():
    lists = golden.Lists([], listed(why="logprobs"))
    clear = edit(["json", "error"], f"logprobs {golden.NOT_BUILT_TEXT}")
    assert verdict(CASE, "generate", clear, lists) is None
    assert "no error with" in verdict(CASE, "generate", OTHER, lists)
    assert "stale" in verdict(CASE, "generate", lambda r: None, lists)


def test_bad_lists_are_named():
    both = golden.Lists(listed(row=1, error="x"), listed(why="y"))
    assert any("both lists" in p for p in both.problems)
    assert golden.Lists(listed(error="x"), []).problems
    assert golden.Lists(listed(row=1, error="x") * 2, []).problems
    unknown = golden.Lists([{"case": "no.such", "transports": ["generate"], "row": 1, "error": "x"}], [])
    assert unknown.unused(RECORDS)
    assert not golden.Lists(listed(row=1, error="x"), []).unused(RECORDS)


def test_the_committed_lists_are_well_formed():
    lists = golden.Lists.load()
    assert not lists.problems
    assert {entry["row"] for entry in lists.differences.values()} <= BETTER
    assert not lists.unused(golden.all_records())
