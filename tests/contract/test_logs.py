"""What the log and the trace files say, and what they never say."""
import json
import re

import pytest
from clients import PROMPT, generate
from conftest import MODELS, Repository, load
from server import TritonServer

SECRET = "hf_verysecretverysecretverysecret"


def ask(server, model, **parameters):
    status, answer = generate(server, model, {"text_input": PROMPT, "parameters": {"max_tokens": 3, **parameters}})
    assert status == 200, answer


def test_one_line_tells_what_a_load_decided(server, repository):
    offset = server.log_size()
    load(server, repository.add("told", engine={"max_model_len": 128, "max_num_seqs": 8, "num_gpu_blocks_override": 65}))
    lines = [line for line in server.log_since(offset).splitlines() if "serving " in line]
    assert len(lines) == 1
    for part in (str(MODELS / "opt-tiny"), "on cpu (", "dtype float32", "max_model_len 128", "max_num_seqs 8",
                 "max_num_batched_tokens ", "KV cache 1024 tokens (8.00x", "64 pages of 16, float32", "prefix caching true"):
        assert part in lines[0], (part, lines[0])


def test_requests_are_logged_only_if_asked_for(server, repository):
    for name, asked in (("quiet", False), ("talkative", True)):
        load(server, repository.add(name, engine={"enable_log_requests": asked}))
        offset = server.log_size()
        ask(server, name, top_k=7)
        logged = re.findall(r"request \d+: 11 prompt tokens.*top_k: 7", server.log_since(offset))
        assert len(logged) == asked, server.log_since(offset)
        assert PROMPT not in server.log_since(offset), "prompts are people's words"


@pytest.mark.parametrize("model", [str(MODELS / "opt-tiny"), "nobody/nothing"])
def test_a_token_is_never_logged(tmp_path, model):
    """Loaded or failed, with everything the server can say."""
    repository = Repository(tmp_path)
    env = {"HF_TOKEN": SECRET + "2", "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_CACHE": str(tmp_path / "cache")}
    with TritonServer(repository.folder, env=env, extra=["--log-verbose=2"]) as server:
        name = repository.add("secret", engine={"hf_token": SECRET, "model": model, "enable_log_requests": True})
        status, text = server.load_model(name)
        assert (status == 200) == (model != "nobody/nothing"), text
        if status == 200:
            ask(server, name)
        assert "hf_very" not in server.log_since() + text


def test_the_servers_trace_has_times_in_order(tmp_path):
    repository, file = Repository(tmp_path), tmp_path / "trace.json"
    trace = [f"--trace-config=triton,file={file}", "--trace-config=rate=1", "--trace-config=level=TIMESTAMPS",
             "--trace-config=mode=triton"]
    with TritonServer(repository.folder, extra=trace) as server:
        load(server, repository.add("traced"))
        for _ in range(3):
            ask(server, "traced")
    stamps = {}
    for entry in json.loads(file.read_text()):
        for stamp in entry.get("timestamps", ()):
            stamps.setdefault(entry["id"], {})[stamp["name"]] = stamp["ns"]
    whole = [s for s in stamps.values() if "COMPUTE_START" in s]
    assert len(whole) == 3, stamps
    order = ("REQUEST_START", "QUEUE_START", "COMPUTE_START", "COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START", "COMPUTE_END",
             "REQUEST_END")
    for times in whole:
        seen = [times[name] for name in order if name in times]
        # The server stamps its own end when the request is released, which may be before the last response is out.
        assert len(seen) >= 6 and seen[:6] == sorted(seen[:6]), times
        assert 0 < times["COMPUTE_END"] - times["COMPUTE_START"] < 60e9, times


def test_steps_are_traced_for_chrome(tmp_path):
    repository = Repository(tmp_path / "models")
    repository.folder.mkdir()
    with TritonServer(repository.folder, backend_config={"step-trace-dir": tmp_path}) as server:
        load(server, repository.add("stepped"))
        ask(server, "stepped", max_tokens=20, ignore_eos=True)
        assert server.unload_model("stepped")[0] == 200
    files = list(tmp_path.glob("stepped*.json"))
    assert len(files) == 1, files
    events = json.loads(files[0].read_text())
    steps = [e for e in events if e["name"] == "step"]
    assert [e["args"]["tokens"] for e in steps] == [11] + [1] * 19
    assert all(e["ph"] == "X" and e["dur"] >= e["args"]["device_us"] for e in steps)
    assert all(a["ts"] + a["dur"] <= b["ts"] + 1 for a, b in zip(steps, steps[1:]))


def test_a_trace_folder_that_is_not_there_fails_the_load(tmp_path):
    repository = Repository(tmp_path)
    with TritonServer(repository.folder, backend_config={"step-trace-dir": "/nonexistent/folder"}) as server:
        status, text = server.load_model(repository.add("nowhere"))
        assert status >= 400 and "step-trace-dir" in text and "/nonexistent/folder" in text
