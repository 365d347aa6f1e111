"""Case 6 and its kind: model.json files of every age of vLLM load, and say what has no effect; devices, limits,
log level and buckets of newer releases act."""
import json
import re
import threading
import urllib.request

import pytest
from clients import PROMPT, generate, generate_stream, golden_text
from conftest import CONFIG, ENGINE, MODELS, Repository, load
from server import TritonServer

REPORT = CONFIG + 'parameters [ { key: "REPORT_CUSTOM_METRICS" value: { string_value: "true" } } ]\n'
# Two deployments' files, for vLLM 0.2 and 0.6; `model` and what a tiny model cannot hold are the test's.
HANDLER = {"engine_use_ray": False, "enforce_eager": False, "gpu_memory_utilization": 0.8, "dtype": "float16",
           "max_num_seqs": 64}
WORKER = {
    "disable_log_stats": False, "enable_log_requests": False, "gpu_memory_utilization": 0.95,
    "pipeline_parallel_size": 1, "tensor_parallel_size": 1, "skip_tokenizer_init": False, "tokenizer_mode": "auto",
    "trust_remote_code": False, "load_format": "auto", "config_format": "auto", "dtype": "auto",
    "kv_cache_dtype": "auto", "quantization_param_path": None, "seed": 0, "block_size": 16,
    "enable_prefix_caching": False, "disable_sliding_window": False, "swap_space": 4, "cpu_offload_gb": 0,
    "max_num_seqs": 256, "max_logprobs": 20, "enforce_eager": False, "max_seq_len_to_capture": 8192,
    "disable_custom_all_reduce": False, "enable_lora": False, "max_loras": 1, "max_lora_rank": 16,
    "enable_prompt_adapter": False, "max_prompt_adapters": 1, "max_prompt_adapter_token": 0,
    "fully_sharded_loras": False, "lora_dtype": "auto", "device": "auto", "ray_workers_use_nsight": False,
    "scheduler_delay_factor": 0.0, "guided_decoding_backend": "outlines", "enable_expert_parallel": False,
    "qlora_adapter_name_or_path": None, "async_scheduling": False}


@pytest.fixture(scope="module")
def server(repository):
    """With two backend-config keys that nobody reads."""
    config = {"max-wating": 8, "shm-default-byte-size": 1}
    with TritonServer(repository.folder, backend_config=config) as running:
        yield running
        assert running.alive(), running.log_tail()


def loaded(server, repository, name, config=CONFIG, **engine):
    offset = server.log_size()
    load(server, repository.add(name, config=config, engine=engine))
    return server.log_since(offset)


def refused(server, repository, name, file="model.json", **engine):
    if file == "model.json":
        repository.add(name, engine=engine)
    else:
        text = json.dumps({**ENGINE, "model": str(MODELS / "opt-tiny"), **engine})
        repository.add(name, model_json=False, files={file: text})
    status, text = server.load_model(name)
    assert status != 200, text
    return text


def test_keys_of_backend_config_that_nobody_reads_are_told_once(server, repository):
    first = loaded(server, repository, "once-a", device="cpu") + loaded(server, repository, "once-b", device="cpu")
    assert first.count("--backend-config=vllm,max-wating has no effect: did you mean 'max-waiting'?") == 1, first
    assert first.count("shm-default-byte-size has no effect: it belongs to the Python backend") == 1, first
    assert "auto-complete" not in first and first.count("--backend-config=vllm,") == 2, first


@pytest.mark.parametrize("name, engine", [("handler", HANDLER), ("worker", WORKER)])
def test_case_06_loads_without_a_word(server, repository, name, engine):
    log = loaded(server, repository, f"case-06-{name}", **engine)
    warnings = [line for line in log.splitlines() if line.startswith("W") and "[vllm]" in line]
    assert all("SERVED BY THE CPU" in line for line in warnings), warnings
    status, answer = generate(server, f"case-06-{name}", {"text_input": PROMPT, "parameters": {"max_tokens": 3}})
    assert status == 200, answer


def test_what_has_no_effect_is_told_and_what_would_change_answers_is_refused(server, repository):
    log = loaded(server, repository, "old", swap_space=16, guided_decoding_disable_any_whitespace=True,
                 disable_log_requests="true", device="cpu")
    assert "old: model.json: 'swap_space' has no effect here: 16 is ignored (a key of vLLM 0.1 to 0.17)" in log
    assert "read as 'structured_outputs_config.disable_any_whitespace'" in log
    assert "disable_log_requests" not in log
    text = refused(server, repository, "prompt-adapter", enable_prompt_adapter=True)
    assert "model.json: 'enable_prompt_adapter': true is not supported" in text, text


def test_an_unknown_key_is_told_with_file_and_nearest(server, repository):
    text = refused(server, repository, "unknown", enforce_eagr=True)
    assert "AsyncEngineArgs.__init__() got an unexpected keyword argument 'enforce_eagr' (in model.json: did you " \
           "mean 'enforce_eager'?)" in text, text
    text = refused(server, repository, "unknown-2", file="vllm_engine_args.json", invalid_attribute=True)
    assert "'invalid_attribute' (in vllm_engine_args.json: remove it)" in text, text


def test_a_parameter_of_config_pbtxt_that_is_almost_ours(server, repository):
    log = loaded(server, repository, "almost", config=REPORT.replace("METRICS", "METRIC"), device="cpu")
    assert "almost: config.pbtxt: parameter 'REPORT_CUSTOM_METRIC' has no effect: did you mean " \
           "'REPORT_CUSTOM_METRICS'?" in log, log


def test_an_unknown_device_is_refused(server, repository):
    text = refused(server, repository, "gpu", device="gpu")
    assert "device: got 'gpu', expected 'auto', 'cpu' or 'cuda'; did you mean 'cuda'?" in text, text


def test_without_a_gpu(tmp_path):
    repository = Repository(tmp_path)
    with TritonServer(repository.folder, env={"CUDA_VISIBLE_DEVICES": ""}) as server:
        text = refused(server, repository, "cuda", device="cuda")
        assert "no NVIDIA GPU can be used (CUDA_VISIBLE_DEVICES hides all)" in text, text
        assert '"device": "cuda" in model.json asks for one' in text.replace("\\", ""), text
        log = loaded(server, repository, "auto")
        (line,) = [line for line in log.splitlines() if "SERVED BY THE CPU" in line]
        assert line.startswith("W"), line
        assert "SERVED BY THE CPU" not in loaded(server, repository, "cpu", device="cpu")


def refusals_beside_streams(server, name, key):
    """What requests are answered while twelve streams run or wait: (status, the text has the key)."""
    body = {"text_input": PROMPT, "stream": True, "parameters": {"max_tokens": 240, "ignore_eos": True}}
    streams = [threading.Thread(target=generate_stream, args=(server, name, body)) for _ in range(12)]
    for stream in streams:
        stream.start()
    refusals = set()
    while any(stream.is_alive() for stream in streams):
        status, answer = generate(server, name, {"text_input": PROMPT, "parameters": {"max_tokens": 1}})
        refusals.add((status, key in str(answer)))
    for stream in streams:
        stream.join()
    return refusals


def test_limits_of_the_queue(server, repository):
    """One request runs; the next is refused with the key that says so, and served when the first has gone."""
    loaded(server, repository, "one", max_num_queued_reqs=1, device="cpu")
    loaded(server, repository, "tokens", max_num_queued_tokens=1, max_num_active_seqs=1, device="cpu")
    assert generate(server, "one", {"text_input": PROMPT, "parameters": {"n": 2}})[0] == 400
    for name, key in (("one", "max_num_queued_reqs"), ("tokens", "max_num_queued_tokens")):
        refusals = set()
        # On a busy machine a round of streams may be served one after the other.
        for _ in range(20):
            refusals |= refusals_beside_streams(server, name, key)
            if (400, True) in refusals:
                break
        assert (400, True) in refusals and refusals <= {(400, True), (200, False)}, refusals
        status, answer = generate(server, name, {"text_input": PROMPT, "parameters": {"temperature": 0}})
        assert (status, answer.get("text_output")) == (200, PROMPT + golden_text()), answer


def test_a_step_may_have_fewer_tokens_than_its_buffers(server, repository):
    log = loaded(server, repository, "narrow", max_num_seqs=4, max_num_batched_tokens=64, max_num_scheduled_tokens=8,
                 long_prefill_token_threshold=4, long_prefill_token_threshold_adaptive=True, device="cpu")
    assert "max_num_batched_tokens 64" in log
    status, answer = generate(server, "narrow", {"text_input": PROMPT, "parameters": {"temperature": 0}})
    assert (status, answer["text_output"]) == (200, PROMPT + golden_text())
    text = refused(server, repository, "too-narrow", max_num_seqs=4, max_num_scheduled_tokens=3)
    assert "max_num_scheduled_tokens (3) must be at least 4: max_num_seqs" in text, text


def test_log_levels_of_models(tmp_path):
    repository = Repository(tmp_path)
    with TritonServer(repository.folder) as server:
        quiet = loaded(server, repository, "quiet", log_level="ERROR", swap_space=16)
        lines = [line for line in quiet.splitlines() if "[vllm]" in line and "backend API" not in line]
        assert not lines, lines
        where = server.log_size()
        assert server.load_model("no-such-model")[0] != 200
        assert "[vllm]" in loaded(server, repository, "usual", device="cpu")
        assert server.unload_model("usual")[0] == 200
        assert "no-such-model" in server.log_since(where), "the server's own lines stay"


def test_buckets_of_histograms(server, repository):
    buckets = {"request_latency": [0.25, 4096], "request_tokens": [7], "iteration_tokens": [3, 5]}
    loaded(server, repository, "buckets", config=REPORT, custom_histogram_buckets=buckets, device="cpu")
    assert generate(server, "buckets", {"text_input": PROMPT})[0] == 200
    with urllib.request.urlopen(server.metrics_url) as answer:
        text = answer.read().decode()

    def bounds(family):
        return re.findall(rf'{family}_bucket{{model="buckets",version="1",le="([^"]+)"}}', text)
    assert bounds("vllm:e2e_request_latency_seconds") == ["0.25", "4096", "+Inf"], text
    assert bounds("vllm:request_queue_time_seconds") == ["0.25", "4096", "+Inf"]
    assert bounds("vllm:request_prompt_tokens") == bounds("vllm:request_generation_tokens") == ["7", "+Inf"]
    assert bounds("vllm:iteration_tokens_total") == ["3", "5", "+Inf"]
    assert len(bounds("vllm:time_to_first_token_seconds")) == 17, "families that are not named keep theirs"
    text = refused(server, repository, "bad-buckets", custom_histogram_buckets={"request_latency": [2, 1]})
    assert "custom_histogram_buckets.request_latency: expected a list of numbers above 0" in text, text
