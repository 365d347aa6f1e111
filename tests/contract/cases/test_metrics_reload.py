"""A model with custom metrics is loaded again in place while it streams: the old version's end must not take the
series from under the new one (attack 1)."""
import re
import time
import urllib.request

import pytest
from clients import LIMIT_S
from conftest import CONFIG, Repository, load
from reloads import Streams, reload
from server import TritonServer

REPORT = (CONFIG + 'model_transaction_policy { decoupled: true }\n'
          'parameters [ { key: "REPORT_CUSTOM_METRICS" value: { string_value: "true" } } ]\n')
POLL = ["--repository-poll-secs=1"]


def series(server, model):
    """{name: value} of this model's vllm series; those of buckets and reasons left out."""
    with urllib.request.urlopen(server.metrics_url) as answer:
        text = answer.read().decode()
    return {n: float(v) for n, v in re.findall(rf'^(vllm:\w+){{model="{model}",version="1"}} (\S+)$', text, re.M)}


def until(condition, what):
    limit = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < limit, what
        time.sleep(0.05)


@pytest.mark.parametrize("version, poll, rounds", [("0.7.0", False, 40), ("0.7.0", True, 4), ("0.5.5", False, 15)],
                         ids=["explicit", "poll", "explicit-0.5.5"])
def test_reloads_in_place_under_streams(tmp_path, version, poll, rounds):
    repository = Repository(tmp_path)
    name = repository.add("counted", config=REPORT)
    options = {"control": "poll", "extra": POLL} if poll else {"load": (name,)}
    with TritonServer(repository.folder, version=version, **options) as server:
        streams = Streams(server, name, 3)
        streams.start()
        seen = 0.0
        for _ in range(rounds):
            reload(server, repository.folder, name, poll)
            tokens = series(server, name)["vllm:generation_tokens_total"]
            assert tokens >= seen, "the two versions count in one series"
            seen = tokens
        streams.stop()
        assert not streams.wrong and streams.whole > rounds, (streams.wrong, server.log_tail())

        # Versions that are gone say nothing any more, and the one that is left says the truth.
        idle = {"vllm:num_requests_running": 0, "vllm:num_requests_waiting": 0, "vllm:engine_healthy": 1}
        until(lambda: idle.items() <= series(server, name).items(), series(server, name))


def test_the_series_of_an_unloaded_model_are_gone(server, repository):
    load(server, repository.add("guest", config=REPORT))
    load(server, repository.add("host", config=REPORT))
    assert series(server, "guest")["vllm:engine_healthy"] == 1
    assert server.unload_model("guest")[0] == 200
    until(lambda: not series(server, "guest"), "an unloaded model's series stay")
    assert series(server, "host")["vllm:engine_healthy"] == 1
    load(server, "guest")
    assert series(server, "guest")["vllm:engine_healthy"] == 1


def test_two_instances_share_their_series(server, repository):
    config = REPORT.replace("count: 1", "count: 2")
    load(server, repository.add("pair", config=config))
    streams = Streams(server, "pair", 6)
    streams.start()
    until(lambda: series(server, "pair")["vllm:num_requests_running"] > 1, "both instances run")
    streams.stop()
    until(lambda: series(server, "pair")["vllm:num_requests_running"] == 0, series(server, "pair"))
    assert not streams.wrong
