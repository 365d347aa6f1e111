#!/usr/bin/env python3
"""Chaos on the machine's own device under the stock tritonserver: bad clients, tight pages, engines that fail, panic and
stall, a wild read in a kernel, models that come and go. `run LIBS chaos`. Needs no package but grpcio.

With --ranks N every model is shared by N GPUs, all of them by the same ones; faults strike the last rank, each kind
also alone, and two sound models answer side by side.

Held: each request ends once, whole or with a reason; the process lives; each GPU's memory comes back.
"""
import argparse
import http.client
import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import wire  # noqa: E402
from server import ROOT, ServerFailed, TritonServer  # noqa: E402

CONFIG = 'backend: "vllm"\ninstance_group [ { count: 1 kind: KIND_MODEL } ]\n'
ALLOWED = {"TRITON_VLLM_ALLOW_FAULTS": "1"}
QUESTION, ANSWER = "What is 128 + 256? Answer:", "384."
LIMIT_S = 60
results = []
# GPUs of each model.
ranks = 1


def check(name, good, detail=""):
    results.append({"check": name, "ok": bool(good), "detail": str(detail)[:400]})
    print(f"{'ok    ' if good else 'FAILED'} {name}: {str(detail)[:400]}", flush=True)


def model(folder, name, **engine):
    """The sample model, with pages for a few sequences only unless `engine` says otherwise."""
    version = Path(folder) / name / "1"
    shutil.copytree(ROOT / "model_repository/vllm_model/1", version)
    (version.parent / "config.pbtxt").write_text(CONFIG)
    settings = {"model": "abacus", "max_num_seqs": 16, "num_gpu_blocks_override": 24, "max_model_len": 64,
                "tensor_parallel_size": ranks, **engine}
    (version / "model.json").write_text(json.dumps(settings))
    return name


def faulty(**faults):
    return {"additional_config": {"inject_faults": faults}}


def until(condition, limit_s=LIMIT_S):
    limit = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > limit:
            return False
        time.sleep(0.02)
    return True


def gpu_mib():
    """Memory in use on each GPU; nothing without nvidia-smi."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        return list(map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()))
    except (OSError, ValueError, subprocess.CalledProcessError):
        return []


class Crowd:
    """Clients in threads. `counts`: what became of the requests; `broken`: promises that were not kept."""

    def __init__(self, server, models):
        self.server, self.models = server, models
        self.counts, self.broken, self.lock = Counter(), [], threading.Lock()

    def run(self, clients, seconds, seed):
        end = time.monotonic() + seconds
        threads = [threading.Thread(target=self.client, args=(random.Random(seed * 1000 + i), end), daemon=True)
                   for i in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(seconds + 2 * LIMIT_S)
        hanging = sum(t.is_alive() for t in threads)
        if hanging:
            self.broken.append(f"{hanging} clients hang")
        return self

    def client(self, rng, end):
        kinds = (self.whole, self.stream, self.leaves, self.grpc)
        while time.monotonic() < end and len(self.broken) < 5:
            kind = rng.choice(kinds)
            try:
                what = kind(rng)
            except Exception as error:  # whatever it is, a client did not get its answer
                self.broken.append(f"{kind.__name__}: {error!r}")
                continue
            with self.lock:
                self.counts[f"{kind.__name__}: {what}"] += 1

    def parameters(self, rng):
        picked = {"max_tokens": rng.choice((1, 3, 16, 30)), "ignore_eos": True, "temperature": rng.choice((0, 0.9))}
        if rng.random() < 0.1:
            picked.update(rng.choice(({"temperature": -1}, {"nonsense": 1}, {"max_tokens": 0}, {"timeout": 1000})))
        return picked

    def post(self, rng, path, stream, picked):
        body = {"text_input": QUESTION, "stream": stream, "return_finish_reason": True, "return_num_output_tokens": True,
                "parameters": picked}
        connection = http.client.HTTPConnection("127.0.0.1", self.server.ports[0], timeout=LIMIT_S)
        connection.request("POST", f"/v2/models/{rng.choice(self.models)}/{path}", json.dumps(body))
        return connection, connection.getresponse()

    def refusal(self, text):
        if len(text) < 15 or "error" not in text:
            raise ValueError(f"neither answer nor reason: {text!r}")
        return "refused"

    def whole(self, rng):
        connection, answer = self.post(rng, "generate", False, self.parameters(rng))
        text = answer.read().decode()
        connection.close()
        return "answered" if answer.status == 200 and '"error"' not in text else self.refusal(text)

    def stream(self, rng):
        picked = self.parameters(rng)
        connection, answer = self.post(rng, "generate_stream", True, picked)
        text = answer.read().decode()
        connection.close()
        if answer.status != 200 or '"error"' in text:
            return self.refusal(text)
        events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
        tokens = sum(e["num_output_tokens"] for e in events)
        if tokens != picked["max_tokens"] or [e["finish_reason"] for e in events if e["finish_reason"] != "None"] != ["length"]:
            raise ValueError(f"{tokens} of {picked['max_tokens']} tokens: {text[-300:]}")
        return "answered"

    def leaves(self, rng):
        connection, answer = self.post(rng, "generate_stream", True, self.parameters(rng))
        answer.read(rng.randrange(1, 200))
        connection.close()
        return "left"

    def grpc(self, rng):
        picked = self.parameters(rng)
        picked.pop("timeout", None)
        try:
            wire.stream(self.server.grpc, rng.choice(self.models), QUESTION, json.dumps(picked), LIMIT_S)
        except RuntimeError as refused:
            return self.refusal(f"error: {refused}")
        return "answered"


def right(server, name):
    body = {"text_input": QUESTION, "exclude_input_in_output": True,
            "parameters": {"temperature": 0, "max_tokens": 16, "stop": "\n"}}
    status, text = server.post(f"v2/models/{name}/generate", body)
    return status == 200 and json.loads(text).get("text_output", "").strip() == ANSWER


def unloaded(server, name):
    server.unload_model(name)
    return until(lambda: server.model_state(name) == "UNAVAILABLE")


def bad_clients(out, seconds, clients, seed):
    with tempfile.TemporaryDirectory() as folder:
        model(folder, "tight")
        model(folder, "breaks", **faulty(seed=seed, error_share=0.001, panic_share=0.001, stall_share=0.0005, stall_ms=1500))
        options = {"restart": 1_000_000, "step-timeout-ms": 1000, "max-waiting": 40}
        with TritonServer(folder, env=ALLOWED, backend_config=options, log=out / "chaos.clients.log") as server:
            for name in ("tight", "breaks"):
                status, text = server.load_model(name)
                check(f"{name} loads", status == 200, text)
            crowd = Crowd(server, ["tight", "breaks"]).run(clients, seconds, seed)
            check("every request ended", not crowd.broken, crowd.broken[:3] or dict(crowd.counts))
            log = server.log_since()
            check("faults struck", "the engine failed" in log, f"{log.count('the engine failed, all')} times")
            check("nothing was dropped", "dropped without an answer" not in log)
            check("the process lives", server.alive())
            check("right after it", until(lambda: right(server, "tight"), 10))
            for name in ("tight", "breaks"):
                check(f"{name} unloads", unloaded(server, name))


def wild_read(out):
    """An error of the device itself. Its context is lost for the process: requests fail at once, the process can end."""
    with tempfile.TemporaryDirectory() as folder:
        model(folder, "dying", **faulty(break_at=5))
        with TritonServer(folder, env=ALLOWED, log=out / "chaos.wild.log") as server:
            check("dying loads", server.load_model("dying")[0] == 200)
            began = time.monotonic()
            crowd = Crowd(server, ["dying"])
            threads = [threading.Thread(target=crowd.client, args=(random.Random(i), began + 1)) for i in range(16)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(LIMIT_S)
            check("a wild read fails all at once", not crowd.broken and time.monotonic() - began < 20,
                  crowd.broken[:3] or dict(crowd.counts))
            lines = [line for line in server.log_since().splitlines() if "the engine failed" in line]
            check("the log names the cause", len(lines) == 1, lines)
            check("the model leaves the server", until(lambda: server.model_state("dying") == "UNAVAILABLE", 30))
            check("the process lives", server.alive() and server.ready())
    with tempfile.TemporaryDirectory() as folder:
        model(folder, "dying", **faulty(break_at=5))
        server = TritonServer(folder, env=ALLOWED, control="none", backend_config={"exit-when-dead": "true"},
                              log=out / "chaos.exit.log")
        try:
            server.start()
            right(server, "dying")
            right(server, "dying")
            check("exit-when-dead ends the process", until(lambda: not server.alive(), 30) and server.process.returncode == 1,
                  server.process.returncode)
        finally:
            server.kill()
            server.clean()


def come_and_go(out, rounds):
    with tempfile.TemporaryDirectory() as folder:
        model(folder, "guest")
        with TritonServer(folder, log=out / "chaos.guest.log") as server:
            first = gpu_mib()
            used = []
            for _ in range(rounds):
                server.load_model("guest")
                if not right(server, "guest") or not unloaded(server, "guest"):
                    check("load, serve, unload", False, server.log_tail(5))
                    return
                used.append((gpu_mib(), server.resident_bytes() >> 20))
            (gpus, host), (gpus_end, host_end) = used[len(used) // 2], used[-1]
            good = host_end - host < 12 and all(end - gpu <= 2 for gpu, end in zip(gpus, gpus_end))
            check(f"{rounds} rounds of load, serve, unload", good,
                  f"each GPU {gpus} -> {gpus_end} MiB, host {host} -> {host_end} MiB in the second half; before the "
                  f"first {first}")


def one_rank_fails(out):
    """Each fault alone, in a step of the last rank while the others are busy with it; an engine that was restarted
    counts its steps from 1 again."""
    kinds = (("an error", {"error_at": 9}, True), ("a panic", {"panic_at": 9}, True),
             ("a stall beyond the limit", {"stall_at": 9, "stall_ms": 4000}, True),
             ("a stall within it", {"stall_at": 9, "stall_ms": 300}, False))
    with tempfile.TemporaryDirectory() as folder:
        options = {"restart": 1000, "step-timeout-ms": 1000}
        with TritonServer(folder, env=ALLOWED, backend_config=options, log=out / "chaos.rank.log") as server:
            for n, (what, faults, dies) in enumerate(kinds):
                name = model(folder, f"rank{n}", **faulty(**faults))
                if server.load_model(name)[0] != 200:
                    check(f"{what} on one rank: loads", False, server.log_tail(5))
                    continue
                before = len(server.log_since())
                crowd = Crowd(server, [name]).run(8, 4, n)
                died = "the engine failed" in server.log_since()[before:]
                check(f"{what} on one rank", not crowd.broken and died == dies, crowd.broken[:3] or dict(crowd.counts))
                check(f"{what}: unloads", unloaded(server, name))
            check("the process lives", server.alive())


def side_by_side(out, seconds, clients):
    """Two sound models on the same GPUs, asked at once; every answer is to be right."""
    names = ("one", "other")
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            model(folder, name)
        with TritonServer(folder, log=out / "chaos.pair.log") as server:
            check("both load", all(server.load_model(name)[0] == 200 for name in names))
            end = time.monotonic() + seconds
            answers, lock = Counter(), threading.Lock()

            def client(name):
                while time.monotonic() < end:
                    good = right(server, name)
                    with lock:
                        answers[name, good] += 1

            threads = [threading.Thread(target=client, args=(names[n % 2],), daemon=True) for n in range(clients)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(seconds + LIMIT_S)
            good = all(answers[name, True] > 0 and not answers[name, False] for name in names)
            hang = sum(thread.is_alive() for thread in threads)
            check("two models side by side", good and not hang, f"{dict(answers)}, {hang} clients hang")
            check("both unload", all([unloaded(server, name) for name in names]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="out")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ranks", type=int, default=1, help="GPUs that share each model")
    args = parser.parse_args()
    global ranks
    ranks = args.ranks
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    parts = [("bad clients", lambda: bad_clients(out, args.seconds, args.clients, args.seed)),
             ("wild read", lambda: wild_read(out)), ("come and go", lambda: come_and_go(out, args.rounds))]
    if ranks > 1:
        parts += [("one rank fails", lambda: one_rank_fails(out)),
                  ("side by side", lambda: side_by_side(out, args.seconds, min(args.clients, 16)))]
    for part, step in parts:
        try:
            step()
        except (ServerFailed, OSError, ValueError) as failed:
            check(part, False, f"{failed!r}"[-300:])
    (out / "chaos.json").write_text(json.dumps(results, indent=1))
    bad = sum(not r["ok"] for r in results)
    print(f"== chaos: {len(results) - bad} passed, {bad} failed", flush=True)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
