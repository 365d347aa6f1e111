#!/usr/bin/env python3
"""The parts of ci/soak that run a stock server: chaos, clients, reload, replace, attack. Each prints what it saw; a promise that was
broken ends it with an error.

    ci/soak.py chaos   [--clients 500]  [--seconds 600] [--seed N]    bad clients, breaking engines, models that come and go
    ci/soak.py clients [--clients 1000] [--seconds 300]               streams of opt-tiny: no token lost, memory bounded
    ci/soak.py reload  [--rounds 200]                                 load, serve, unload: nothing grows
    ci/soak.py replace [--rounds 200] [--mode poll|explicit|both]     a model with metrics is loaded again in place under streams
    ci/soak.py attack  [--rounds 200] [--seed N]                      hostile requests and files beside a quiet stream
"""
import argparse
import asyncio
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from server import ROOT, TritonServer

sys.path.insert(0, str(ROOT / "tests/contract"))
from attacks import Attacks, run as run_attacks  # noqa: E402
from chaos import MAX_MODEL_LEN, Chaos  # noqa: E402
from clients import PROMPT, generate, golden_text  # noqa: E402
from reloads import Streams, reload as reload_in_place  # noqa: E402

CONFIG = 'backend: "vllm"\ninstance_group [ { count: 1 kind: KIND_MODEL } ]\n'
REPORT = (CONFIG + 'model_transaction_policy { decoupled: true }\n'
          'parameters [ { key: "REPORT_CUSTOM_METRICS" value: { string_value: "true" } } ]\n')
ENGINE = {"model": str(ROOT / "tests/goldens/models/opt-tiny"), "enforce_eager": True, "max_model_len": MAX_MODEL_LEN,
          "dtype": "float32", "max_num_seqs": 64}
# Pages for some sequences only: the scheduler preempts.
TIGHT = {"max_num_seqs": 32, "num_gpu_blocks_override": 65}
FAULTS = {"seed": 6, "error_share": 0.0005, "panic_share": 0.0005, "stall_share": 0.0002, "stall_ms": 1500}
TOKENS = 64
# Of the server's resident memory, after the first third of a run.
MOST_GROWTH_BYTES = 32 << 20


class Broken(Exception):
    """A promise that was broken."""


def hold(good, what):
    if not good:
        raise Broken(what)


def add(folder, name, config=CONFIG, **engine):
    version = Path(folder) / name / "1"
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text(config)
    (version / "model.json").write_text(json.dumps({**ENGINE, **engine}))
    return name


class Sizes(threading.Thread):
    """What the server process holds, every few seconds: (second, resident bytes, threads, open files)."""

    def __init__(self, server, every_s=2.0):
        super().__init__(daemon=True)
        self.server, self.every_s, self.rows, self.done = server, every_s, [], threading.Event()

    def look(self):
        process = f"/proc/{self.server.process.pid}"
        self.rows.append((time.monotonic() - self.server.started_s, self.server.resident_bytes(),
                          len(os.listdir(process + "/task")), len(os.listdir(process + "/fd"))))
        return self.rows[-1]

    def run(self):
        while not self.done.wait(self.every_s):
            self.look()

    def table(self, rows=8):
        print("second | resident MiB | threads | open files")
        for second, bytes_, threads, files in self.rows[::max(1, len(self.rows) // rows)]:
            print(f"{second:6.0f} | {bytes_ / 2**20:12.1f} | {threads:7} | {files}")


def loads(server, name):
    status, text = server.load_model(name)
    hold(status == 200, f"{name} does not load: {text}")


def unloads(server, name, limit_s=60):
    hold(server.unload_model(name)[0] == 200, f"{name}: unload refused")
    limit = time.monotonic() + limit_s
    while server.model_state(name) != "UNAVAILABLE":
        hold(time.monotonic() < limit, f"{name} is not unloaded after {limit_s} s")
        time.sleep(0.02)


def serves(server, name):
    status, answer = generate(server, name, {"text_input": PROMPT, "parameters": {"temperature": 0}})
    hold(status == 200 and answer["text_output"] == PROMPT + golden_text(), f"{name} says {status} {answer}")


def chaos(args):
    clients, seconds = args.clients or 500, args.seconds or 600
    with tempfile.TemporaryDirectory() as folder:
        names = [add(folder, "sound", **TIGHT), add(folder, "comes", **TIGHT),
                 add(folder, "breaks", **TIGHT, additional_config={"inject_faults": FAULTS})]
        options = {"restart": 1_000_000, "step-timeout-ms": 1000, "max-waiting": 200}
        env = {"TRITON_VLLM_ALLOW_FAULTS": "1"}
        with TritonServer(folder, env=env, backend_config=options) as server:
            for name in names:
                loads(server, name)
            sizes = Sizes(server)
            _, _, threads, files = sizes.look()
            sizes.start()
            crowd, rounds = asyncio.run(crowds(server, names, clients, seconds, args.seed))
            time.sleep(5)
            serves(server, "sound")
            log = server.log_since()
            for name in names:
                unloads(server, name)
            sizes.done.set()
            last = sizes.look()
            sizes.table()
            failed = log.count("the engine failed, all its requests fail")
            print(f"{sum(crowd.counts.values())} requests of {clients} clients in {seconds} s, the slowest {crowd.slowest_s:.1f} s; "
                  f"{rounds} unloads under load, {failed} engines broken, {log.count('serves again after')} restarted")
            for what, count in sorted(crowd.counts.items()):
                print(f"{count:8} {what}")
            hold(server.alive(), "the server died")
            hold("dropped without an answer" not in log, "a request was dropped without an answer")
            panics = [line for line in log.splitlines() if "panicked" in line and "injected" not in line and "fault.rs" not in line]
            hold(not panics, f"a panic that nobody injected: {panics[:1]}")
            hold(failed > 0 and rounds > 0, "nothing broke: the faults did not strike")
            hold(last[2] <= threads and last[3] <= files + 8, f"left behind: {last}, before {threads} threads, {files} files")


async def crowds(server, names, clients, seconds, seed):
    rounds = 0

    async def come_and_go():
        nonlocal rounds
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await asyncio.sleep(2)
            await asyncio.to_thread(unloads, server, "comes")
            await asyncio.to_thread(loads, server, "comes")
            rounds += 1
    async with Chaos(server, names, seed) as crowd:
        await asyncio.gather(crowd.crowd(clients, seconds), come_and_go())
        return crowd, rounds


def clients(args):
    count, seconds = args.clients or 1000, args.seconds or 300
    tool = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release" / "examples" / "loadgen"
    body = json.dumps({"text_input": PROMPT, "stream": True, "return_num_output_tokens": True,
                       "parameters": {"temperature": 0, "max_tokens": TOKENS, "ignore_eos": True}})
    with tempfile.TemporaryDirectory() as folder:
        add(folder, "opt-tiny", max_num_seqs=256)
        with TritonServer(folder, control="none") as server:
            sizes = Sizes(server)
            sizes.start()
            path = "/v2/models/opt-tiny/generate_stream"
            out = subprocess.run([tool, str(server.ports[0]), path, str(count), str(seconds), body], text=True,
                                 stdout=subprocess.PIPE, check=True)
            sizes.done.set()
            sizes.look()
            sizes.table()
            seen = json.loads(out.stdout)
            print(json.dumps(seen))
            lost = seen["answers"] * TOKENS - seen["tokens"]
            print(f"{seen['answers']} streams of {TOKENS} tokens, {lost} tokens lost, {seen['errors']} errors; whole answer p50 "
                  f"{seen['latency_p50_ms']:.0f} ms, p99 {seen['latency_p99_ms']:.0f} ms; first event p99 "
                  f"{seen['ttft_p99_ms']:.0f} ms; gap between events p99 {seen['event_gap_p99_ms']:.1f} ms")
            hold(seen["errors"] == 0 and lost == 0 and seen["answers"] >= count, "tokens or answers are missing")
            middle = sizes.rows[len(sizes.rows) // 3][1]
            hold(sizes.rows[-1][1] - middle < MOST_GROWTH_BYTES, "memory grows")
            hold("dropped without an answer" not in server.log_since(), "a request was dropped without an answer")


def reload(args):
    with tempfile.TemporaryDirectory() as folder:
        add(folder, "guest")
        with TritonServer(folder) as server:
            sizes = Sizes(server)
            for _ in range(args.rounds):
                loads(server, "guest")
                serves(server, "guest")
                unloads(server, "guest")
                sizes.look()
            sizes.table(10)
            settled, last = sizes.rows[args.rounds // 2], sizes.rows[-1]
            print(f"{args.rounds} rounds: {(last[1] - settled[1]) / 2**20:+.1f} MiB, {last[2] - settled[2]:+} threads, "
                  f"{last[3] - settled[3]:+} files in the second half")
            hold(last[1] - settled[1] < 12 << 20 and last[2] <= settled[2] and last[3] <= settled[3], "something grows")


def replace(args):
    for mode in ("explicit", "poll") if args.mode == "both" else (args.mode,):
        replace_in(mode, args.rounds)


def replace_in(mode, rounds):
    poll = mode == "poll"
    with tempfile.TemporaryDirectory() as folder:
        name = add(folder, "counted", config=REPORT)
        options = {"control": "poll", "extra": ["--repository-poll-secs=1"]} if poll else {"load": (name,)}
        with TritonServer(folder, **options) as server:
            sizes = Sizes(server)
            streams = Streams(server, name, 3)
            streams.start()
            for _ in range(rounds):
                reload_in_place(server, Path(folder), name, poll)
                sizes.look()
            streams.stop()
            sizes.table(10)
            settled, last = sizes.rows[rounds // 2], sizes.rows[-1]
            print(f"{mode}: {rounds} reloads under {streams.count} streams, {streams.whole} whole answers, {len(streams.wrong)} wrong; "
                  f"{(last[1] - settled[1]) / 2**20:+.1f} MiB in the second half")
            hold(not streams.wrong, f"an answer was wrong: {streams.wrong[:1]}")
            hold(last[1] - settled[1] < MOST_GROWTH_BYTES, "memory grows")


def attack(args):
    with tempfile.TemporaryDirectory() as folder:
        attacks = Attacks(folder, args.seed)
        with TritonServer(attacks.repository.folder) as server:
            sizes = Sizes(server)
            sizes.start()
            run_attacks(server, attacks, args.rounds)
            sizes.done.set()
            sizes.table()
            hold("panicked" not in server.log_since(), "a panic")
        print(f"{args.rounds} rounds; the quiet stream paused {attacks.longest_pause_s * 1e3:.0f} ms at the longest, "
              f"the slowest attack was answered after {attacks.longest_answer_s:.1f} s")
        for what, count in sorted(attacks.counts.items()):
            print(f"{count:8} {what}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["chaos", "clients", "reload", "replace", "attack"])
    parser.add_argument("--clients", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--seed", type=int, default=int(time.time()) // 86400)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--mode", choices=["explicit", "poll", "both"], default="both")
    args = parser.parse_args()
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    print(f"{args.part}: {datetime.date.today()}, commit {commit}, {os.cpu_count()} CPUs, {platform.machine()}, seed {args.seed}",
          flush=True)
    try:
        {"chaos": chaos, "clients": clients, "reload": reload, "replace": replace, "attack": attack}[args.part](args)
    except Broken as broken:
        sys.exit(f"error: {broken}")
    print(f"{args.part}: every promise kept")


if __name__ == "__main__":
    main()
