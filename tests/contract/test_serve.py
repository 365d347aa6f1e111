"""ci/server.py as the command of somebody with a repository of their own: ports, the ready line, errors that name the
option, an end by signal."""
import os
import re
import shutil
import signal
import socket
import subprocess

import pytest
from buckets import ENVIRONMENT, Bucket
from clients import LIMIT_S, PROMPT, generate, golden_text
from conftest import CONFIG, MODELS, Repository
from server import ROOT, TritonServer, free_ports
from test_health import ALLOWED, SHORT, faulty

COMMAND = [str(ROOT / "ci/server.py")]
READY = re.compile(r"ready  http (\S+)  grpc (\S+)  metrics (\S+)  \(Ctrl-C stops\)\n")


class Served:
    """The command, running; its first line, which comes when it is ready."""

    def __init__(self, *arguments, env=None):
        self.process = subprocess.Popen([*COMMAND, *map(str, arguments)], text=True, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, env={**os.environ, **(env or {})},
                                        start_new_session=True)

    def __enter__(self):
        self.line = self.process.stdout.readline()
        if self.line:
            self.url, self.grpc, self.metrics_url = READY.fullmatch(self.line).groups()
        return self

    def end(self, number=signal.SIGTERM):
        """(exit code, standard error) after a signal to the command, or to all that Ctrl-C reaches."""
        if number == signal.SIGINT:
            os.killpg(self.process.pid, number)
        elif self.process.poll() is None:
            self.process.send_signal(number)
        error = self.process.communicate(timeout=LIMIT_S)[1]
        return self.process.returncode, error

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def mine(tmp_path):
    repository = Repository(tmp_path / "mine")
    repository.add("opt-tiny")
    return repository


def answers(served):
    status, answer = generate(served, "opt-tiny", SHORT)
    return (status, answer["text_output"]) == (200, PROMPT + golden_text(3))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_repository_of_ones_own_is_served_until_a_signal(mine, number):
    ports = free_ports(3)
    options = [o for name, port in zip(("http", "grpc", "metrics"), ports) for o in (f"--{name}-port", port)]
    with Served("--repository", mine.folder, *options) as served:
        assert served.url == f"http://127.0.0.1:{ports[0]}" and served.grpc == f"127.0.0.1:{ports[1]}"
        assert served.metrics_url == f"http://127.0.0.1:{ports[2]}/metrics"
        assert answers(served)
        code, error = served.end(number)
        assert code == 0 and "serving" in error, error
    with socket.create_server(("127.0.0.1", ports[0])):
        pass


def test_every_option_is_described():
    text = subprocess.run([*COMMAND, "--help"], check=True, capture_output=True, text=True).stdout
    options = set(re.findall(r"--[a-z-]+", text))
    assert options >= {"--repository", "--host", "--http-port", "--grpc-port", "--metrics-port", "--load", "--log",
                       "--model-control-mode", "--backend-config", "--server", "--library", "--ready-timeout-s"}
    for option in options - {"--log-verbose", "--release", "--load"}:
        described = re.search(rf"^  (-h, )?{option}( [A-Z=]+)?\n? +(\S.+)", text, re.M)
        assert described and len(described[3]) > 5, option


@pytest.mark.parametrize("arguments, words", [
    (["--repository", "/nowhere"], "--repository /nowhere is no folder"),
    (["--server", "9.9"], "9.9 is none of 2.36.0, 2.44.0, 2.51.0"),
    (["--backend-config", "restart"], "restart is not KEY=VALUE"),
    (["--load", "a", "--model-control-mode", "poll"], "--load needs --model-control-mode explicit"),
    (["--library", "/nowhere/lib.so"], "/nowhere/lib.so does not exist"),
    (["--host", "203.0.113.7"], "--http-port 8000 on 203.0.113.7: Cannot assign requested address"),
])
def test_what_cannot_be_served_is_said_in_a_line(arguments, words):
    free = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"] if "--host" not in arguments else []
    result = subprocess.run([*COMMAND, *arguments, *free], capture_output=True, text=True, timeout=LIMIT_S)
    assert result.returncode != 0 and words in result.stderr and "Traceback" not in result.stderr, result.stderr


def test_a_port_in_use_is_named_with_its_option(mine):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [*COMMAND, "--repository", mine.folder, "--http-port", "0", "--grpc-port", str(port), "--metrics-port", "0"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    assert result.returncode == 1 and f"--grpc-port {port} on 127.0.0.1: Address already in use" in result.stderr


ANY = ("--http-port", 0, "--grpc-port", 0, "--metrics-port", 0)


def test_a_model_that_does_not_load_shows_the_servers_reason(mine):
    mine.add("broken", engine={"model": "/nowhere/model"})
    with Served("--repository", mine.folder, *ANY) as served:
        assert served.line == ""
        code, error = served.end()
        assert code == 1 and "/nowhere/model" in error and "error: the server ended with 1 while starting" in error
        assert "Traceback" not in error
    with Served("--repository", mine.folder, "--load", "opt-tiny", *ANY) as served:
        assert answers(served)
        assert served.end()[0] == 0


def test_the_log_goes_where_it_is_told(mine, tmp_path):
    with Served("--repository", mine.folder, "--log", tmp_path / "server.log", "--server", "2.44", *ANY,
                "--backend-config", "max-waiting=7", "--", "--exit-timeout-secs=5") as served:
        assert answers(served)
        code, error = served.end()
        assert (code, error) == (0, "")
    log = (tmp_path / "server.log").read_text()
    assert "serving" in log and "2.44.0" in log and re.search(r"exit_timeout +\| 5 ", log)


def test_a_server_that_ends_by_itself_ends_the_command(mine):
    mine.add("dying", engine=faulty(error_at=2))
    with Served("--repository", mine.folder, *ANY, "--backend-config", "exit-when-dead=true", env=ALLOWED) as served:
        assert generate(served, "dying", SHORT)[0] >= 400
        assert served.process.wait(LIMIT_S) == 1
        assert "error: the server ended with 1" in served.end()[1]


def test_a_repository_in_a_bucket(tmp_path):
    """S3: the server copies the model's folder, weights and all, and the backend finds them by a relative path."""
    repository = Repository(tmp_path / "models")
    repository.add("opt-tiny", engine={"model": "weights"})
    shutil.copytree(MODELS / "opt-tiny", repository.folder / "opt-tiny/1/weights")
    with Bucket(tmp_path) as bucket:
        with Served("--repository", f"{bucket.url}/models", *ANY, env=ENVIRONMENT) as served:
            assert served.line, served.end()[1]
            assert answers(served)
            assert served.end()[0] == 0
