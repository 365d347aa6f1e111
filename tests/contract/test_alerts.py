"""deploy/prometheus-alerts.yml on series that a real server left behind: engines that die with and without `restart`,
whose model is unloaded, whose process ends. promtool plays them back a sample a minute."""
import re
import subprocess
import urllib.error
import urllib.request

import pytest
import yaml
from clients import generate
from conftest import Repository, load
from server import ROOT, TritonServer
from test_health import ALLOWED, SHORT, all_failed, faulty, streams, until
from test_metrics import REPORT

PROMTOOL = ROOT / "target/promtool"
ALERTS = ROOT / "deploy/prometheus-alerts.yml"
CRITICAL = {"VllmEngineDead", "VllmModelGone", "VllmServerUnreachable"}
HEALTHY = "vllm:engine_healthy"
MINUTES = 10


def scrape(server):
    """{series: value as text}; None if the server does not answer."""
    try:
        with urllib.request.urlopen(server.metrics_url, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None
    found = dict(l.rsplit(" ", 1) for l in lines if l.startswith("vllm:"))
    return {re.sub(r"}$", f',{at("a")}}}', name): value for name, value in found.items()}


def healthy(server, model):
    """The gauge's value; None without one, also while the metrics port, the last to open, is not there yet."""
    found = (scrape(server) or {}).items()
    return next((v for name, v in found if name.startswith(HEALTHY) and f'"{model}"' in name), None)


def at(instance):
    return f'job="triton",instance="{instance}"'


def notation(values):
    """promtool's: a sample a minute, `stale` where a series ends, `_` where there is none."""
    before = [None, *values]
    return " ".join(v if v is not None else "stale" if b is not None else "_" for b, v in zip(before, values))


def firing(phases, tmp_path, more=()):
    """Names of the alerts that fire in the last minute, where each scrape of `phases` lasts MINUTES."""
    samples = [phase for phase in phases for _ in range(MINUTES)]
    names = sorted({name for phase in phases if phase for name in phase})
    series = [{"series": name, "values": notation([s.get(name) if s else None for s in samples])} for name in names]
    series.append({"series": f'up{{{at("a")}}}', "values": " ".join("0" if s is None else "1" for s in samples)})
    series += [{"series": name, "values": notation(values)} for name, values in more]
    end = f"{len(samples) - 1}m"
    test = {"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": [{
        "interval": "1m", "input_series": series,
        "promql_expr_test": [{"expr": 'count by (alertname) (ALERTS{alertstate="firing"})', "eval_time": end}]}]}
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(test))
    # Nothing is expected: what fires is in the difference that promtool prints.
    result = subprocess.run([PROMTOOL, "test", "rules", tmp_path / "alerts.yml"], capture_output=True, text=True)
    text = result.stdout + result.stderr
    assert result.returncode == 0 or "got:" in text, text
    return set(re.findall(r'alertname="(\w+)"', text))


def test_promtool_knows_the_rules():
    assert PROMTOOL.exists(), "no promtool: run ci/setup, which says what to do where it can fetch none"
    result = subprocess.run([PROMTOOL, "check", "rules", ALERTS], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_healthy_engine_and_nothing_served_yet_are_silent(server, repository, tmp_path):
    before = scrape(server)
    load(server, repository.add("well", config=REPORT))
    assert generate(server, "well", SHORT)[0] == 200
    after = scrape(server)
    assert any(name.startswith(HEALTHY) for name in after)
    assert firing([before, after], tmp_path) == set()


@pytest.mark.parametrize("control, ends", [("explicit", "unloaded"), ("none", "listed"), ("none", "exits")])
def test_a_death_without_restart_is_told(tmp_path, control, ends):
    repository = Repository(tmp_path)
    repository.add("dying", config=REPORT, engine=faulty(error_at=2))
    server = TritonServer(repository.folder, env=ALLOWED, control=control, load=["dying"] if control == "explicit" else [],
                          backend_config={"exit-when-dead": "true"} if ends == "exits" else {})
    server.start()
    try:
        until(lambda: healthy(server, "dying") == "1", server.log_tail())
        alive = scrape(server)
        assert generate(server, "dying", SHORT)[0] >= 400
        if ends == "unloaded":
            until(lambda: server.model_state("dying") == "UNAVAILABLE", server.log_tail())
        elif ends == "exits":
            until(lambda: not server.alive(), server.log_tail())
        else:
            until(lambda: healthy(server, "dying") == "0", server.log_tail())
        dead = scrape(server)
    finally:
        server.kill()
        server.clean()
    fires = firing([alive, dead], tmp_path)
    assert fires & CRITICAL and fires <= CRITICAL | {"VllmFewerEngines", "VllmRequestsFail"}, fires
    if ends == "listed":
        assert "VllmEngineDead" in fires
    if ends == "exits":
        assert fires >= {"VllmModelGone", "VllmServerUnreachable"}


def test_a_death_with_restart_warns_and_ends(tmp_path):
    repository = Repository(tmp_path)
    with TritonServer(repository.folder, env=ALLOWED, backend_config={"restart": 1}) as server:
        load(server, repository.add("phoenix", config=REPORT, engine=faulty(error_at=8)))
        until(lambda: healthy(server, "phoenix") == "1", server.log_tail())
        alive = scrape(server)
        all_failed(streams(server, "phoenix", 2), "")
        until(lambda: generate(server, "phoenix", SHORT)[0] == 200, server.log_tail())
        again = scrape(server)
        [gauge] = [name for name in again if name.startswith(HEALTHY)]
        assert alive[gauge] == again[gauge] == "1"
        # A scrape in between is a matter of luck: the gauge is 0 there and the rest as before.
        between = {**alive, gauge: "0"}
        assert not firing([alive, again], tmp_path) & CRITICAL
        assert "VllmEngineDead" in firing([alive, between], tmp_path)
        fires = firing([alive, between, again], tmp_path)
        assert "VllmEngineRestarts" in fires and not fires & CRITICAL, fires

        all_failed(streams(server, "phoenix", 2), "")
        until(lambda: server.model_state("phoenix") == "UNAVAILABLE", server.log_tail())
        assert firing([alive, again, scrape(server)], tmp_path) & CRITICAL


def test_one_of_two_replicas_is_missed(server, repository, tmp_path):
    load(server, repository.add("twin", config=REPORT))
    until(lambda: healthy(server, "twin") == "1", server.log_tail())
    alive = scrape(server)
    [gauge] = [name for name in alive if name.startswith(HEALTHY) and '"twin"' in name]
    other = gauge.replace(at("a"), at("b"))
    both = ["1"] * 2 * MINUTES
    leaves = ["1"] * MINUTES + [None] * MINUTES
    assert firing([alive, alive], tmp_path, [(other, both)]) == set()
    assert firing([alive, alive], tmp_path, [(other, leaves)]) == {"VllmFewerEngines"}


def test_requests_whose_logits_are_no_numbers_warn(tmp_path):
    counter = f'vllm:corrupted_requests_total{{model="m",version="1",{at("a")}}}'
    rises = ["0"] * MINUTES + ["2"] * 5
    assert firing([{}, {}], tmp_path, [(counter, ["0"] * 2 * MINUTES)]) == set()
    assert firing([{}, {}], tmp_path, [(counter, rises + ["2"] * (2 * MINUTES - len(rises)))]) == {"VllmCorruptedRequests"}
