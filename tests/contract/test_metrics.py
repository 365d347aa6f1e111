"""The Python backend's metric families with the same names, texts, labels and buckets, and figures that add up."""
import json
import re
import time
import urllib.request

import pytest
from clients import PROMPT, generate
from conftest import CONFIG, MODELS, Repository, load
from golden import GOLDENS
from server import TritonServer

REPORT = CONFIG + 'parameters [ { key: "REPORT_CUSTOM_METRICS" value: { string_value: "true" } } ]\n'
PROMPTS = ("The most dangerous animal is", "The capital of France is", "The future of AI is")
TOKENS = 16
GAUGES = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")


def scrape(server):
    with urllib.request.urlopen(server.metrics_url) as answer:
        return answer.read().decode()


def series(text):
    """{name with labels: value} of the vllm: lines."""
    return {name: float(value) for name, value in re.findall(r"^(vllm:\S+) (\S+)$", text, re.M)}


def of(values, name, model, **labels):
    pairs = {"model": model, "version": 1, **labels}
    return values[name + "{" + ",".join(f'{k}="{v}"' for k, v in pairs.items()) + "}"]


def settled(server, name, model, expected):
    """Figures are pushed by a thread of their own: scrape until this one has arrived."""
    limit = time.monotonic() + 10
    while True:
        values = series(scrape(server))
        if of(values, name, model) == expected or time.monotonic() > limit:
            return values
        time.sleep(0.05)


def test_idle_families_are_the_recorded_ones(server, repository):
    load(server, repository.add("opt-tiny", config=REPORT))
    lines = scrape(server).splitlines()
    missing = [l for l in (GOLDENS / "metrics_idle.txt").read_text().splitlines() if l not in lines]
    assert not missing, missing
    for gauge in GAUGES:
        assert f"# TYPE {gauge} gauge" in lines
        assert of(series("\n".join(lines)), gauge, "opt-tiny") == 0


def times_aside(lines):
    """Without what depends on the machine's speed: sums of times, and which bucket but the last one a time fell into."""
    return [l for l in lines if not re.match(r"vllm:\w+_seconds_(sum|bucket{.*le=\"[^+])", l)]


def test_the_recorded_figures_of_four_requests(server, repository):
    (record,) = json.loads((GOLDENS / "goldens_metrics.json").read_text())["cases"]
    load(server, repository.add("recorded", config=REPORT))
    greedy = [(p, {"temperature": 0, "max_tokens": 8, "n": 1}) for p in (PROMPT, "def main(", "Hello, my name is")]
    for prompt, parameters in [*greedy, (PROMPT, {"temperature": 1.0, "seed": 1, "max_tokens": 8, "n": 2})]:
        assert generate(server, "recorded", {"text_input": prompt, "parameters": parameters})[0] == 200
    settled(server, "vllm:request_params_n_count", "recorded", 4)
    lines = [l.replace('model="recorded"', 'model="opt-tiny"') for l in scrape(server).splitlines() if 'opt-tiny' not in l]
    missing = [l for l in times_aside(record["response"]["vllm"]) if l not in lines]
    assert not missing, missing
    names = {l.split()[2] for l in lines if l.startswith("# TYPE")}
    assert set(record["response"]["families"]) <= names, set(record["response"]["families"]) - names


def test_three_prompts_add_up(server, repository):
    load(server, repository.add("counted", config=REPORT))
    prompt_tokens = 0
    for prompt in PROMPTS:
        status, answer = generate(server, "counted", {
            "text_input": prompt, "return_num_input_tokens": True,
            "parameters": {"temperature": 0, "max_tokens": TOKENS, "ignore_eos": True}})
        assert status == 200, answer
        prompt_tokens += answer["num_input_tokens"]
    values = settled(server, "vllm:request_params_n_count", "counted", 3)
    expected = {
        "prompt_tokens_total": prompt_tokens, "generation_tokens_total": 3 * TOKENS,
        "time_to_first_token_seconds_count": 3, "time_per_output_token_seconds_count": 3 * (TOKENS - 1),
        "e2e_request_latency_seconds_count": 3,
        "request_prompt_tokens_count": 3, "request_prompt_tokens_sum": prompt_tokens,
        "request_generation_tokens_count": 3, "request_generation_tokens_sum": 3 * TOKENS,
        "request_params_n_count": 3, "request_params_n_sum": 3,
    }
    assert {n: of(values, f"vllm:{n}", "counted") for n in expected} == expected
    for name in expected:
        if name.endswith("_count"):
            family = f"vllm:{name.removesuffix('_count')}"
            assert of(values, f"{family}_bucket", "counted", le="+Inf") == expected[name]
    for name in ("time_to_first_token", "time_per_output_token", "e2e_request_latency"):
        assert of(values, f"vllm:{name}_seconds_sum", "counted") > 0
    for gauge in GAUGES[:2]:
        assert of(values, gauge, "counted") == 0


def test_embeddings_count_prompts_only(server, repository):
    load(server, repository.add("embedder", config=REPORT, engine={"runner": "pooling"}, checkpoint=MODELS / "qwen2-tiny"))
    for tokens in ([5, 6, 7], [8] * 20):
        body = {"embedding_request": json.dumps({"input": tokens})}
        assert generate(server, "embedder", body)[0] == 200
    values = settled(server, "vllm:request_params_n_count", "embedder", 2)
    expected = {"prompt_tokens_total": 23, "generation_tokens_total": 0, "time_per_output_token_seconds_count": 0,
                "e2e_request_latency_seconds_count": 2, "request_prompt_tokens_sum": 23,
                "request_generation_tokens_sum": 0, "request_generation_tokens_count": 2}
    assert {n: of(values, f"vllm:{n}", "embedder") for n in expected} == expected
    assert values['vllm:request_success_total{finished_reason="stop",model="embedder",version="1"}'] == 2


@pytest.mark.parametrize("config, engine", [
    (CONFIG, {}),
    (REPORT.replace('"true"', '"false"'), {}),
    (REPORT, {"disable_log_stats": True}),
], ids=["absent", "false", "disable_log_stats"])
def test_no_metrics_unless_asked_for(tmp_path, config, engine):
    repository = Repository(tmp_path)
    with TritonServer(repository.folder) as server:
        load(server, repository.add("silent", config=config, engine=engine))
        assert "vllm:" not in scrape(server)


def test_a_server_without_metrics_still_serves(tmp_path):
    repository = Repository(tmp_path)
    with TritonServer(repository.folder, extra=["--allow-metrics=false"]) as server:
        load(server, repository.add("opt-tiny", config=REPORT))
        status, answer = generate(server, "opt-tiny", {"text_input": "a", "parameters": {"max_tokens": 2}})
        assert status == 200, answer


def test_triton_statistics_count_requests(server, repository):
    load(server, repository.add("stats"))
    for _ in range(3):
        assert generate(server, "stats", {"text_input": "a", "parameters": {"max_tokens": 2}})[0] == 200
    assert generate(server, "stats", {"text_input": "a", "parameters": {"temperature": -1}})[0] == 400
    limit = time.monotonic() + 10
    while True:
        text = scrape(server)
        counts = dict(re.findall(r'^(nv_inference_request_(?:success|failure)){model="stats",[^}]*} (\d+)$', text, re.M))
        if counts.get("nv_inference_request_success") == "3" or time.monotonic() > limit:
            break
        time.sleep(0.1)
    assert counts["nv_inference_request_success"] == "3", text
    durations = re.findall(r'^nv_inference_request_duration_us{model="stats",[^}]*} (\d+)$', text, re.M)
    assert durations and 0 < int(durations[0]) < 60e6, durations     # wall-clock stamps would give decades
