#!/usr/bin/env python3
"""Starts a stock tritonserver with libtriton_vllm.so as backend "vllm" on free loopback ports.

As a library: `with TritonServer(repository) as server: server.url, server.grpc, server.metrics_url`.
As a command: ci/server.py [--repository DIR] [--version 0.7.0] [--load NAME ...]   (until Ctrl-C)
"""
import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEWEST = "0.7.0"
READY_LIMIT_S = 60
STOP_LIMIT_S = 45


class ServerFailed(Exception):
    """The server did not start, or did not stop cleanly; the text ends with the tail of its log."""


def built_library():
    """The backend as cargo built it."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return (ROOT / target / "release" / "libtriton_vllm.so").resolve()


def installed_versions():
    """Wheel versions under target/servers, oldest first."""
    found = [p.parent.name for p in (ROOT / "target" / "servers").glob("*/.complete")]
    return sorted(found, key=lambda v: [int(n) for n in v.split(".")])


def free_ports(count):
    """Ports that were free a moment ago. All sockets stay open until all are chosen: no port twice."""
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


# Linux: SIGKILL for the server when the process that started it ends without stopping it. A small program of
# its own instead of subprocess's preexec_fn: a fork of a process with gRPC threads may abort before its exec.
DIE_WITH_PARENT = """import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
os.execv(sys.argv[1], sys.argv[1:])"""


class TritonServer:
    """One server process. control: "none" loads the whole repository, "explicit" only `load`."""

    def __init__(self, repository, *, version=NEWEST, library=None, control="explicit", load=(),
                 backend_config=None, extra=(), env=None, log=None, ports=None, detached=False):
        self.repository = Path(repository).resolve()
        self.version = version
        self.library = Path(library or built_library())
        self.options = [f"--model-control-mode={control}"]
        self.options += [f"--load-model={name}" for name in load]
        self.options += [f"--backend-config=vllm,{k}={v}" for k, v in (backend_config or {}).items()]
        self.options += list(extra)
        self.env = {**os.environ, **(env or {})}
        self.detached = detached
        self.ports = ports or free_ports(3)
        self.work = Path(tempfile.mkdtemp(prefix="tritonserver-"))
        self.log_path = Path(log) if log else self.work / "server.log"
        self.process = None
        self.started_s = None
        http, grpc, metrics = self.ports
        self.url = f"http://127.0.0.1:{http}"
        self.grpc = f"127.0.0.1:{grpc}"
        self.metrics_url = f"http://127.0.0.1:{metrics}/metrics"

    def command(self):
        home = ROOT / "target" / "servers" / self.version / "pytriton" / "tritonserver"
        backends = self.work / "backends" / "vllm"
        backends.mkdir(parents=True, exist_ok=True)
        link = backends / "libtriton_vllm.so"
        link.unlink(missing_ok=True)
        link.symlink_to(self.library)
        http, grpc, metrics = self.ports
        return [str(home / "bin" / "tritonserver"), f"--model-repository={self.repository}",
                f"--backend-directory={backends.parent}",
                "--http-address=127.0.0.1", f"--http-port={http}",
                "--grpc-address=127.0.0.1", f"--grpc-port={grpc}",
                "--metrics-address=127.0.0.1", f"--metrics-port={metrics}",
                "--allow-gpu-metrics=false", *self.options]

    def start(self):
        """Start and wait until /v2/health/ready answers 200."""
        if not self.library.exists():
            raise ServerFailed(f"{self.library} does not exist: run cargo build --release first")
        command = self.command()
        if not Path(command[0]).exists():
            raise ServerFailed(f"{command[0]} does not exist: run ci/setup first")
        with open(self.log_path, "wb") as log:
            self.started_s = time.monotonic()
            if not self.detached:
                command = [sys.executable, "-c", DIE_WITH_PARENT, *command]
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                            env=self.env, start_new_session=self.detached)
        while not self.ready():
            code = self.process.poll()
            if code is not None:
                raise ServerFailed(f"the server ended with {code} while starting\n{self.log_tail()}")
            if time.monotonic() - self.started_s > READY_LIMIT_S:
                self.kill()
                raise ServerFailed(f"not ready after {READY_LIMIT_S} s\n{self.log_tail()}")
            time.sleep(0.02)
        return self

    def ready(self):
        try:
            with urllib.request.urlopen(f"{self.url}/v2/health/ready", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def post(self, path, body=None, timeout_s=120):
        """(status, text) of a POST; the body is sent as JSON."""
        data = json.dumps(body).encode() if body is not None else b""
        request = urllib.request.Request(f"{self.url}/{path}", data=data, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read().decode()

    def load_model(self, name):
        return self.post(f"v2/repository/models/{name}/load")

    def unload_model(self, name):
        return self.post(f"v2/repository/models/{name}/unload")

    def model_state(self, name):
        """State in the repository index ("READY", "UNLOADING", …); None when it has none."""
        status, text = self.post("v2/repository/index")
        assert status == 200, text
        return next((m.get("state") for m in json.loads(text) if m["name"] == name), None)

    def log_size(self):
        return self.log_path.stat().st_size

    def log_since(self, offset_bytes=0):
        with open(self.log_path, "rb") as log:
            log.seek(offset_bytes)
            return log.read().decode("utf-8", "replace")

    def log_tail(self, lines=25):
        return "\n".join(self.log_since().splitlines()[-lines:])

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def resident_bytes(self):
        """Resident memory of the server process (VmRSS)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(l.split()[1]) * 1024 for l in status.splitlines() if l.startswith("VmRSS:"))

    def kill(self):
        if self.alive():
            self.process.kill()
            self.process.wait()

    def stop(self):
        """SIGTERM and wait. An exit code other than 0, or no exit, is an error."""
        if self.process is None:
            return
        if self.alive():
            self.process.terminate()
        try:
            code = self.process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerFailed(f"still running {STOP_LIMIT_S} s after SIGTERM\n{self.log_tail()}") from None
        if code != 0:
            raise ServerFailed(f"the server ended with {code}\n{self.log_tail()}")

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.kill()
            self.clean()
            raise

    def __exit__(self, kind, error, trace):
        try:
            if kind is None:
                self.stop()
            else:
                self.kill()
        finally:
            self.clean()

    def clean(self):
        shutil.rmtree(self.work, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", default=str(ROOT / "model_repository"))
    parser.add_argument("--version", default=NEWEST, help="wheel version under target/servers")
    parser.add_argument("--load", action="append", default=[], help="load only this model (repeatable)")
    parser.add_argument("--backend-config", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--log", help="log file; default: a temporary one, shown on failure")
    parser.add_argument("extra", nargs="*", help="further tritonserver options, after --")
    args = parser.parse_args()
    config = dict(item.split("=", 1) for item in args.backend_config)
    control = "explicit" if args.load else "none"
    try:
        with TritonServer(args.repository, version=args.version, control=control, load=args.load,
                          backend_config=config, extra=args.extra, log=args.log) as server:
            print(f"http {server.url}  grpc {server.grpc}  metrics {server.metrics_url}\n"
                  f"log  {server.log_path}  (Ctrl-C stops)", flush=True)
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
            signal.sigwait({signal.SIGINT, signal.SIGTERM})
    except ServerFailed as failed:
        sys.exit(f"error: {failed}")


if __name__ == "__main__":
    main()
