"""The rules by which a recorded answer and a new one are called the same. Pure functions over JSON values.

Used by replay.py (against a server) and test_golden.py (against itself). It never opens a connection.

A *record* is a request with the Python backend's full response. A *view* is the comparable part of a response:
streams are merged, because how tokens are spread over events depends on timing on both sides; memory
addresses, times and Python tracebacks are masked.
"""
import json
import math
import re
from pathlib import Path

GOLDENS = Path(__file__).resolve().parent.parent / "goldens"
# The files whose cases differences.json may name.
FILES = ("goldens.json", "goldens_models.json", "goldens_loads.json")
TOLERANCE = 2e-3            # of floats: relative above 1, absolute below
NOT_BUILT_TEXT = "is not supported yet"

MASKS = (
    (re.compile(r"0x[0-9a-f]{6,}"), "0xADDRESS"),
    (re.compile(r"\n\nAt:\n.*\Z", re.S), "\n\nAt: TRACEBACK"),
    (re.compile(r"\[\d\d:\d\d:\d\d\] "), ""),
)
# A model's configuration names the file that serves it: the Python backend's own, or the server finds a library by itself.
PYTHON_BACKENDS_FILE = ("runtime", "model.py")


def load_records(name):
    data = json.loads((GOLDENS / name).read_text())
    return data["cases"], data.get("substitutions", {})


def all_records():
    return [record for name in FILES for record in load_records(name)[0]]


def key(record):
    return record["id"], record["transport"]


def text_of_nan(value):
    """Parsed NaN as the string "NaN": NaN is not JSON and not equal to itself."""
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    if isinstance(value, dict):
        return {k: text_of_nan(v) for k, v in value.items()}
    if isinstance(value, list):
        return [text_of_nan(v) for v in value]
    return value


def masked(value):
    if isinstance(value, str):
        for pattern, replacement in MASKS:
            value = pattern.sub(replacement, value)
        return value
    if isinstance(value, dict):
        return {k: masked(v) for k, v in value.items() if (k, v) not in (PYTHON_BACKENDS_FILE, ("runtime", ""))}
    if isinstance(value, list):
        return [masked(v) for v in value]
    return value


def join_logprobs(first, second):
    if "null" in (first, second):
        return second
    return json.dumps(json.loads(first) + json.loads(second))


# Fields that a stream sends as deltas. Every other field is a state: the last one counts.
JOINS = {
    "text_output": lambda a, b: a + b,
    "num_output_tokens": lambda a, b: a + b,
    "logprobs": join_logprobs,
}


def listed(value):
    """HTTP writes a tensor of one element as a scalar: with n > 1 a stream can hold both forms."""
    return value if isinstance(value, list) else [value]


def joined(events):
    """One event that says what all of them say together."""
    total = {}
    for event in events:
        for field, value in event.items():
            if field not in total or field not in JOINS:
                total[field] = value
            elif isinstance(value, list) or isinstance(total[field], list):
                pairs = zip(listed(total[field]), listed(value))
                total[field] = [JOINS[field](a, b) for a, b in pairs]
            else:
                total[field] = JOINS[field](total[field], value)
    return total


def view_of_sse(response):
    good = [e for e in response["events"] if "error" not in e]
    bad = [e for e in response["events"] if "error" in e]
    return {"status": response["status"], "content_type": response["content_type"],
            "joined": joined(good), "errors": bad}


def view_of_grpc_stream(response):
    requests, errors = {}, []
    for answer in response["responses"]:
        if "outputs" not in answer:
            errors.append(answer)
            continue
        event = {o["name"]: o["data"] for o in answer["outputs"]}
        event["types"] = {o["name"]: [o["datatype"], o["shape"]] for o in answer["outputs"]}
        final = answer["parameters"].get("triton_final_response")
        seen = requests.setdefault(answer["id"], {"events": [], "finals": 0})
        seen["events"].append(event)
        seen["finals"] += final is True
    merged = {i: {**joined(r["events"]), "finals": r["finals"]} for i, r in requests.items()}
    return {"joined": merged, "errors": errors}


def view(response):
    """What two responses must have in common to be called the same."""
    if not isinstance(response, dict):
        return masked(response)
    if "events" in response:
        return masked(view_of_sse(response))
    if "responses" in response:
        return masked(view_of_grpc_stream(response))
    if "json" in response:
        return masked({k: v for k, v in response.items() if k != "raw"})
    return masked(response)


def same(a, b):
    """Equal, floats within TOLERANCE; strings that hold JSON are compared as JSON."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        if isinstance(a, int) and isinstance(b, int):
            return a == b
        return abs(a - b) <= TOLERANCE * max(1.0, abs(a))
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    if isinstance(a, str) and a != b and a[:1] in "[{" and b[:1] in "[{":
        try:
            return same(text_of_nan(json.loads(a)), text_of_nan(json.loads(b)))
        except ValueError:
            return False
    return a == b


def shape(value):
    """Types instead of values, for answers that are random."""
    if isinstance(value, dict):
        return {k: shape(v) for k, v in value.items() if k != "raw"}
    if isinstance(value, list):
        return [shape(v) for v in value[:3]]
    return type(value).__name__


def agrees(record, new_view, old_view):
    if record.get("shape_only"):
        return shape(new_view) == shape(old_view)
    return same(old_view, new_view)


def error_texts(a_view):
    """Every error message in a view, whatever the transport."""
    if isinstance(a_view, list):
        return [t for item in a_view for t in error_texts(item)]
    if not isinstance(a_view, dict):
        return []
    found = []
    for name, value in a_view.items():
        if name == "error":
            found.append(value["message"] if isinstance(value, dict) else value)
        elif name in ("stream_exception", "client_exception"):
            found.append(value["message"] if isinstance(value, dict) else value)
        else:
            found += error_texts(value)
    return found


def with_error_text(a_view, text):
    """The same view with every error message replaced by `text`."""
    if isinstance(a_view, list):
        return [with_error_text(item, text) for item in a_view]
    if not isinstance(a_view, dict):
        return a_view
    out = {}
    for name, value in a_view.items():
        if name in ("error", "stream_exception"):
            out[name] = {**value, "message": text} if isinstance(value, dict) else text
        else:
            out[name] = with_error_text(value, text)
    return out


def with_fields(a_view, fields):
    """The same view with the outputs named in `fields` replaced: {name: value of each element}."""
    if isinstance(a_view, list):
        return [with_fields(item, fields) for item in a_view]
    if not isinstance(a_view, dict):
        return a_view
    out = {}
    for name, value in a_view.items():
        if name in fields:
            out[name] = [fields[name]] * len(value) if isinstance(value, list) else fields[name]
        else:
            out[name] = value if name == "types" else with_fields(value, fields)
    return out


class Lists:
    """The two committed lists of cases that may differ.

    differences.json    {case, transports, row, error | fields | answer}: row of the table of decisions; `error` is
                        the Python backend's answer with another message, `fields` is it with other values of these
                        outputs, `answer` is the whole new view;
                        shape_only: the new answer is random, only its shape is asserted
    not_built_yet.json  {case, transports, why}: answers with an error that contains NOT_BUILT_TEXT
    """

    def __init__(self, differences, not_built):
        self.problems = []
        self.differences = self.spread(differences, "differences.json")
        self.not_built = self.spread(not_built, "not_built_yet.json")
        for k in self.differences.keys() & self.not_built.keys():
            self.problems.append(f"{k}: in both lists")

    @classmethod
    def load(cls):
        return cls(*(json.loads((GOLDENS / f).read_text()) for f in ("differences.json", "not_built_yet.json")))

    def spread(self, entries, name):
        out = {}
        for entry in entries:
            for transport in entry["transports"]:
                k = (entry["case"], transport)
                if k in out:
                    self.problems.append(f"{k}: twice in {name}")
                if name == "differences.json" and str(entry.get("row", "?")) == "?":
                    self.problems.append(f"{k}: no row in {name}")
                out[k] = entry
        return out

    def unused(self, records):
        """Entries that no compared record answers to."""
        known = {key(r) for r in records if not r.get("racy")}
        return [f"{k}: listed, but no such case is compared"
                for k in [*self.differences, *self.not_built] if k not in known]


def judge(record, new_response, lists):
    """None if the new answer is as it must be, else what is wrong. Racy records are not for this function."""
    old, new = view(record["response"]), view(text_of_nan(new_response))
    k = key(record)
    parity = agrees(record, new, old)
    if k in lists.not_built:
        if parity:
            return "stale entry in not_built_yet.json: the answer is the recorded one"
        if not any(NOT_BUILT_TEXT in text for text in error_texts(new)):
            return f"listed as not built, but the answer is no error with {NOT_BUILT_TEXT!r}: {brief(new)}"
        return None
    if k in lists.differences:
        if parity:
            return "stale entry in differences.json: the answer is the recorded one"
        entry = lists.differences[k]
        if "answer" in entry:
            expected = entry["answer"]
        elif "fields" in entry:
            expected = with_fields(old, entry["fields"])
        else:
            expected = with_error_text(old, entry["error"])
        if not agrees({**record, **entry}, new, expected):
            return f"not the listed answer\n   listed {brief(expected)}\n   new    {brief(new)}"
        return None
    if not parity:
        return f"differs\n   old {brief(old)}\n   new {brief(new)}"
    return None


def brief(value, limit=700):
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else text[:limit] + " …"
