#!/usr/bin/env python3
"""Serves a model repository with a stock tritonserver and libtriton_vllm.so, without a container, until Ctrl-C.

    ci/server.py --repository my_models
    ci/server.py --repository my_models --http-port 9000 --backend-config restart=2
    ci/server.py --repository s3://bucket/models --host 0.0.0.0 -- --log-verbose=1

Needs `ci/setup` (it brings the server) and `cargo build --release` once. The server's log goes to standard error;
when all models are loaded, one line that starts with "ready" goes to standard output.
"""
# As a library: `with TritonServer(repository) as server: server.url, server.grpc, server.metrics_url`; free ports of
# the loopback interface unless `ports` says otherwise.
import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEWEST = "0.7.0"
PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002}
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
                 backend_config=None, extra=(), env=None, log=None, ports=None, detached=False,
                 host="127.0.0.1", ready_limit_s=READY_LIMIT_S):
        # A bucket (s3://, gs://, as://) is for the server to read.
        self.repository = repository if "://" in str(repository) else Path(repository).resolve()
        self.version = version
        self.library = Path(library or built_library())
        self.options = [f"--model-control-mode={control}"]
        self.options += [f"--load-model={name}" for name in load]
        self.options += [f"--backend-config=vllm,{k}={v}" for k, v in (backend_config or {}).items()]
        self.options += list(extra)
        self.env = {**os.environ, **(env or {})}
        self.detached = detached
        self.ports = ports or free_ports(3)
        self.host = host
        self.ready_limit_s = ready_limit_s
        self.work = Path(tempfile.mkdtemp(prefix="tritonserver-"))
        self.log_path = Path(log) if log else self.work / "server.log"
        self.tail_lines = 25
        self.process = None
        self.started_s = None
        http, grpc, metrics = self.ports
        reached = "127.0.0.1" if host == "0.0.0.0" else host
        self.url = f"http://{reached}:{http}"
        self.grpc = f"{reached}:{grpc}"
        self.metrics_url = f"http://{reached}:{metrics}/metrics"

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
                f"--http-address={self.host}", f"--http-port={http}",
                f"--grpc-address={self.host}", f"--grpc-port={grpc}",
                f"--metrics-address={self.host}", f"--metrics-port={metrics}",
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
            if time.monotonic() - self.started_s > self.ready_limit_s:
                self.kill()
                raise ServerFailed(f"not ready after {self.ready_limit_s} s\n{self.log_tail()}")
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

    def log_tail(self, count=None):
        """The last lines of the log, for an error's text."""
        lines = self.log_since().splitlines()
        return "\n".join(lines[max(0, len(lines) - (self.tail_lines if count is None else count)):])

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


def version_of(name):
    """Wheel version of a server that is named by its own version (2.51) or by its wheel's."""
    lines = (ROOT / "ci" / "servers.txt").read_text().splitlines()
    table = dict(line.split() for line in lines if line and not line.startswith("#"))
    if name in table:
        return name
    found = [wheel for wheel, server in table.items() if server == name or server.startswith(f"{name}.")]
    if len(found) != 1:
        raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(table.values())}")
    return found[0]


def key_value(text):
    if "=" not in text:
        raise argparse.ArgumentTypeError(f"{text} is not KEY=VALUE")
    return text.split("=", 1)


def chosen_ports(args):
    """The ports asked for; those asked for as 0 are free ones. One that is taken is an error with its option."""
    ports = [getattr(args, f"{name}_port") for name in PORTS]
    for name, port in zip(PORTS, ports):
        try:
            with socket.create_server((args.host, port)):
                pass
        except OSError as error:
            raise ServerFailed(f"--{name}-port {port} on {args.host}: {error.strerror}. Choose another one, or 0 for "
                               "any that is free") from None
    free = iter(free_ports(3))
    return [port or next(free) for port in ports]


def follow(log, end):
    """Copies what is written to an open log to standard error, until `end` is set and all of it is copied."""
    with log:
        while True:
            last = end.is_set()
            sys.stderr.buffer.write(log.read())
            sys.stderr.buffer.flush()
            if last:
                return
            end.wait(0.1)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", default=str(ROOT / "model_repository"), metavar="FOLDER",
                        help="model repository: a folder, or s3://, gs:// or as:// (default: the sample, %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS",
                        help="address to listen on; 0.0.0.0 for every interface (default: %(default)s)")
    for name, port in PORTS.items():
        parser.add_argument(f"--{name}-port", type=int, default=port, metavar="PORT",
                            help=f"port for {name}; 0 for any that is free (default: %(default)s)")
    parser.add_argument("--model-control-mode", choices=("none", "poll", "explicit"), metavar="MODE",
                        help="none: all models, now; poll: all, and changes of the folder; explicit: those of --load, "
                             "others by the load API (default: none, with --load explicit)")
    parser.add_argument("--load", action="append", default=[], metavar="MODEL", help="load only this model; repeatable")
    parser.add_argument("--backend-config", action="append", default=[], type=key_value, metavar="KEY=VALUE",
                        help="a setting of the backend as in docs/tuning.md, e.g. restart=2; repeatable")
    parser.add_argument("--server", default=NEWEST, type=version_of, metavar="VERSION",
                        help="version of the tritonserver, one of ci/servers.txt (default: 2.51.0)")
    parser.add_argument("--library", type=Path, default=built_library(), metavar="FILE",
                        help="the backend (default: %(default)s)")
    parser.add_argument("--log", type=Path, metavar="FILE", help="the server's log goes there instead of standard error")
    parser.add_argument("--ready-timeout-s", type=int, default=1800, metavar="SECONDS",
                        help="time that loading may take, downloads included (default: %(default)s)")
    parser.add_argument("extra", nargs="*", metavar="-- OPTION", help="further options for tritonserver itself")
    args = parser.parse_args()
    if args.load and args.model_control_mode in ("none", "poll"):
        parser.error("--load needs --model-control-mode explicit")
    if "://" not in args.repository and not Path(args.repository).is_dir():
        parser.error(f"--repository {args.repository} is no folder")
    return args


def serve(args):
    """Until a signal asks for the end, or the server ends by itself, which is an error."""
    control = args.model_control_mode or ("explicit" if args.load else "none")
    server = TritonServer(args.repository, version=args.server, library=args.library, control=control, load=args.load,
                          backend_config=dict(args.backend_config), extra=args.extra, log=args.log,
                          ports=chosen_ports(args), host=args.host, ready_limit_s=args.ready_timeout_s)
    end = threading.Event()
    server.log_path.touch()
    copier = threading.Thread(target=follow, args=(open(server.log_path, "rb"), end), daemon=True)
    if not args.log:
        copier.start()
        server.tail_lines = 0  # All of it is on the screen.
    try:
        with server:
            print(f"ready  http {server.url}  grpc {server.grpc}  metrics {server.metrics_url}  (Ctrl-C stops)", flush=True)
            signals = {signal.SIGINT, signal.SIGTERM}
            signal.pthread_sigmask(signal.SIG_BLOCK, signals)
            while signal.sigtimedwait(signals, 1) is None:
                if not server.alive():
                    raise ServerFailed(f"the server ended with {server.process.returncode}\n{server.log_tail()}")
    finally:
        end.set()
        if copier.is_alive():
            copier.join(5)


def main():
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        serve(arguments())
    except ServerFailed as failed:
        sys.exit(f"error: {failed}".strip())
    except KeyboardInterrupt:
        sys.exit("stopped before it was ready")


if __name__ == "__main__":
    main()
