"""`data_parallel_size` engines behind one instance, instances that take GPUs by turn or by `gpu_device_ids`, and what a
config that does not fit is told. Here on the CPU: where the GPUs are is tested beside the code that chooses them."""
import pytest
from clients import PROMPT, generate, golden_text
from conftest import CONFIG, Repository, load
from server import TritonServer
from test_chaos_rounds import TIGHT, rage, serves, total, unloads
from test_health import ALLOWED, SHORT, faulty, streams, until
from test_metrics import REPORT, scrape, series

TWO = {"data_parallel_size": 2}
GREEDY = {"text_input": PROMPT, "parameters": {"temperature": 0}}


def of(values, name, engine):
    return values[f'{name}{{engine="{engine}",model="two",version="1"}}']


def listed(gpus):
    return CONFIG + f'parameters [ {{ key: "gpu_device_ids" value: {{ string_value: "{gpus}" }} }} ]\n'


def test_two_engines_share_the_requests_and_have_series_of_their_own(server, repository):
    load(server, repository.add("two", config=REPORT, engine=TWO))
    idle = series(scrape(server))
    for engine in "01":
        assert of(idle, "vllm:engine_healthy", engine) == 1
        assert of(idle, "vllm:num_requests_running", engine) == 0
    assert not [name for name in idle if 'model="two"' in name and "engine=" not in name]

    for _ in range(8):
        status, answer = generate(server, "two", GREEDY)
        assert (status, answer["text_output"]) == (200, PROMPT + golden_text())

    def counted(name):
        values = series(scrape(server))
        return [of(values, name, engine) for engine in "01"]
    until(lambda: sum(counted("vllm:e2e_request_latency_seconds_count")) == 8, "eight requests")
    assert counted("vllm:e2e_request_latency_seconds_count") == [4, 4]


def test_bad_clients_on_two_engines(server, repository):
    name = repository.add("crowded", engine={**TIGHT, **TWO})
    load(server, name)
    counts = rage(server, [name], 3)
    assert total(counts, "answered") > 20, counts
    serves(server, name)
    unloads(server, name)


def test_one_dead_engine_is_a_dead_instance_that_comes_back(tmp_path):
    repository = Repository(tmp_path)
    with TritonServer(repository.folder, env=ALLOWED, backend_config={"restart": 1}) as server:
        load(server, repository.add("dying", engine={**TWO, **faulty(error_at=5)}))
        answers = streams(server, "dying", 20)
        errors = [str(events[-1]) for _, events in answers if "error" in str(events[-1])]
        assert errors and all("injected device error" in error or "loaded again" in error for error in errors)
        until(lambda: generate(server, "dying", SHORT)[0] == 200, "it is loaded again")
        assert "serves again after" in server.log_since()


@pytest.mark.parametrize("config, engine, words", [
    (listed("0,x"), {}, "gpu_device_ids in config.pbtxt must list GPUs by number"),
    (listed("0,1;2,3"), TWO | {"tensor_parallel_size": 2}, "lists 2 GPUs for instance 1"),
    (listed("0").replace("count: 1", "count: 2"), {}, "lists the GPUs of 1 instances, and this one is number 2"),
    (CONFIG, {"data_parallel_size": 0}, "data_parallel_size"),
    (CONFIG, {"data_parallel_size": 1000}, "data_parallel_size is 1000, at most 64"),
], ids=["no-number", "too-few-gpus", "too-few-lists", "none", "too-many"])
def test_what_does_not_fit_is_told(server, repository, config, engine, words, request):
    name = f"unfit-{request.node.callspec.id}"
    status, text = server.load_model(repository.add(name, config=config, engine={"device": "cpu", **engine}))
    assert status >= 400 and words in text, text


def test_an_instance_that_fails_beside_another_is_an_error_and_no_crash(server, repository):
    config = listed("0").replace("count: 1", "count: 2")
    for n in range(15):
        status, text = server.load_model(repository.add(f"second{n}", config=config, engine={"device": "cpu"}))
        assert status >= 400 and "this one is number 2" in text, text


def test_gpu_device_ids_mean_nothing_to_the_cpu(server, repository):
    before = server.log_path.stat().st_size
    load(server, repository.add("listed", config=listed("0,1"), engine={"device": "cpu", **TWO}))
    assert generate(server, "listed", GREEDY)[1]["text_output"] == PROMPT + golden_text()
    assert "gpu_device_ids" not in server.log_since(before)
