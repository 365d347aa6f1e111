#!/usr/bin/env python3
"""What ci/bench measures: start, memory, and the closed loop of examples/loadgen.rs against opt-tiny."""
import argparse
import datetime
import json
import os
import platform
import subprocess
import tempfile
import time
from pathlib import Path

from server import ROOT, TritonServer

CLIENTS = (1, 8, 32)
TOKENS = 16
PROMPT = "The most dangerous animal is"
CONFIG = 'backend: "vllm"\ninstance_group [ { count: 1 kind: KIND_MODEL } ]\n'
ENGINE = {"model": str(ROOT / "tests/goldens/models/opt-tiny"), "enforce_eager": True, "max_model_len": 256,
          "dtype": "float32", "max_num_seqs": 64}


def body(stream):
    return json.dumps({"text_input": PROMPT, "stream": stream, "parameters": {"temperature": 0, "max_tokens": TOKENS}})


def model_folder(folder):
    version = Path(folder) / "opt-tiny" / "1"
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text(CONFIG)
    (version / "model.json").write_text(json.dumps(ENGINE))


def first_answer_s(folder):
    """Seconds from starting the server process to the first complete answer."""
    with TritonServer(folder, control="none") as server:
        status, text = server.post("v2/models/opt-tiny/generate", json.loads(body(False)))
        assert status == 200, text
        return time.monotonic() - server.started_s


def cpu_seconds(pid):
    user, system = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def measure(server, mode, clients, seconds):
    tool = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release" / "examples" / "loadgen"
    began, spent = time.monotonic(), cpu_seconds(server.process.pid)
    path = f"/v2/models/opt-tiny/{mode}"
    out = subprocess.run([tool, str(server.ports[0]), path, str(clients), str(seconds), body(mode != "generate")],
                         capture_output=True, text=True, check=True)
    busy = (cpu_seconds(server.process.pid) - spent) / (time.monotonic() - began)
    return {"mode": mode, **json.loads(out.stdout), "server_cores": round(busy, 2)}


def row(r):
    return (f"| {r['mode']} | {r['clients']} | {r['answers_per_s']:.0f} | {r['events_per_s']:.0f} | "
            f"{r['answers_per_s'] * TOKENS:.0f} | "
            f"{r['latency_p50_ms']:.2f} / {r['latency_p99_ms']:.2f} | {r['ttft_p50_ms']:.2f} | "
            f"{r['errors']} | {r['server_cores']} |")


def commit():
    out = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return out.stdout.strip() or "unknown"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8, help="length of each measurement")
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS)
    parser.add_argument("--json", help="also write the figures to this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model_folder(folder)
        start_s = min(first_answer_s(folder) for _ in range(3))
        with TritonServer(folder, control="none") as server:
            print(f"opt-tiny, {TOKENS} tokens, {os.cpu_count()} cores shared with the clients, {args.seconds:g} s each\n")
            print("| mode | clients | answers/s | events/s | tokens/s | latency p50 / p99 ms | TTFT p50 ms | errors "
                  "| server cores |\n|---|---|---|---|---|---|---|---|---|", flush=True)
            results = []
            for mode in ("generate", "generate_stream"):
                for clients in args.clients:
                    results.append(measure(server, mode, clients, args.seconds))
                    print(row(results[-1]), flush=True)
            resident_mb = server.resident_bytes() / 1e6
    print(f"\nfirst answer {start_s:.2f} s after the server's start · {resident_mb:.0f} MB resident after the load")
    if args.json:
        figures = {"date": datetime.date.today().isoformat(), "commit": commit(), "machine": platform.processor(),
                   "cores": os.cpu_count(), "first_answer_s": round(start_s, 3),
                   "resident_mb": round(resident_mb, 1), "runs": results}
        Path(args.json).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
