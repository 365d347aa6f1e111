"""deploy/: each metric that the Grafana dashboard and the Prometheus alerts name exists in a live scrape, and the new
families say what happened: queue, phases, ends, prefix cache, preemptions, steps."""
import asyncio
import json
import re
import time
import urllib.request

import aiohttp
import yaml
from clients import LIMIT_S, PROMPT, generate, sse
from conftest import load
from server import ROOT
from test_metrics import REPORT, of, series, settled

DASHBOARD = ROOT / "deploy" / "grafana-dashboard.json"
ALERTS = ROOT / "deploy" / "prometheus-alerts.yml"
NAME = re.compile(r"vllm:[a-z0-9_]+")


def expressions():
    """PromQL of every panel and rule, by where it stands."""
    dashboard = json.loads(DASHBOARD.read_text())
    found = {}
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            found[f"panel {panel['title']}"] = found.get(f"panel {panel['title']}", "") + target["expr"]
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("critical", "warning", "info") and rule["annotations"]["summary"], rule
            found[f"alert {rule['alert']}"] = rule["expr"]
    return found


def test_every_metric_they_name_exists(server, repository):
    drafts = {"method": "ngram", "num_speculative_tokens": 2}
    load(server, repository.add("watched", config=REPORT, engine={"speculative_config": drafts}))
    assert generate(server, "watched", {"text_input": "a", "parameters": {"max_tokens": 2}})[0] == 200
    with urllib.request.urlopen(server.metrics_url) as answer:
        families = {line.split("{")[0] for line in answer.read().decode().splitlines() if line.startswith("vllm:")}
    named = expressions()
    assert len(named) > 20
    for where, expr in named.items():
        names = NAME.findall(expr)
        assert names and all(expr.count(a) == expr.count(b) for a, b in ("()", "[]", "{}")), (where, expr)
        for name in names:
            assert name in families, f"{where}: {name} is not in a scrape"


def test_panels_do_not_overlap():
    taken = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        grid = panel["gridPos"]
        cells = {(x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])}
        assert grid["x"] + grid["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells


def test_what_happened_is_counted(server, repository):
    """A pool for two sequences and one prefix for all: preemptions, hits, and phases that add up."""
    engine = {"max_num_seqs": 16, "num_gpu_blocks_override": 22, "max_model_len": 256}
    load(server, repository.add("busy", config=REPORT, engine=engine))
    prompt = PROMPT * 8
    body = {"text_input": prompt, "stream": True,
            "parameters": {"temperature": 0, "max_tokens": 60, "ignore_eos": True}}

    async def burst():
        timeout = aiohttp.ClientTimeout(total=LIMIT_S)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
            return await asyncio.gather(*(sse(session, server.url, "busy", body) for _ in range(16)))
    assert all(status == 200 for status, _ in asyncio.run(burst()))
    stop = {"text_input": PROMPT, "parameters": {"temperature": 0, "max_tokens": 60, "stop": ",", "ignore_eos": True}}
    status, answer = generate(server, "busy", {**stop, "return_finish_reason": True})
    assert status == 200, answer
    refused = {"text_input": PROMPT, "parameters": {"timeout": 1, "max_tokens": 200, "ignore_eos": True}}
    assert generate(server, "busy", refused)[0] >= 400
    values = settled(server, "vllm:request_inference_time_seconds_count", "busy", 17)
    value = lambda name, **labels: of(values, f"vllm:{name}", "busy", **labels)
    ended = lambda reason: values[f'vllm:request_success_total{{finished_reason="{reason}",model="busy",version="1"}}']
    ends = {r: ended(r) for r in ("stop", "length", "abort", "error")}
    stopped = answer["finish_reason"] == "stop"
    assert ends == {"stop": stopped, "length": 16 + (not stopped), "abort": 0, "error": 1}, ends
    assert value("num_preemptions_total") > 0
    assert 0 < value("prefix_cache_hits_total") < value("prefix_cache_queries_total")
    assert value("request_queue_time_seconds_count") >= 17
    phases = [value(f"request_{phase}_time_seconds_sum") for phase in ("queue", "prefill", "decode")]
    whole = value("e2e_request_latency_seconds_sum")
    assert all(seconds > 0 for seconds in phases) and sum(phases) < whole * 1.1, (phases, whole)
    assert value("inter_token_latency_seconds_count") == value("time_per_output_token_seconds_count") > 0
    steps = value("engine_step_time_seconds_count")
    assert steps == value("iteration_tokens_total_count") > 60
    assert 0 < value("engine_host_time_seconds_total") < value("engine_step_time_seconds_sum")
    limit = time.monotonic() + 10
    while value("num_requests_running") and time.monotonic() < limit:
        values = series(urllib.request.urlopen(server.metrics_url).read().decode())
    assert value("num_requests_running") == value("num_requests_waiting") == value("kv_cache_usage_perc") == 0
