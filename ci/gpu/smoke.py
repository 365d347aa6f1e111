#!/usr/bin/env python3
"""The contract in small on a GPU, under the stock tritonserver: the sample model adds right and a model of
the shape of Llama-3.1-8B answers, both through HTTP and gRPC; errors stay errors; a machine that lacks something
gets one line that says what. `run LIBS smoke`.
"""
import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import wire  # noqa: E402
from bench import MODEL, Failed, Workload, first_answer, make_repository, memory_bytes  # noqa: E402
from server import ROOT, ServerFailed, TritonServer  # noqa: E402

SAMPLE = "vllm_model"
SUMS = [(128, 256), (7, 5), (999, 1), (412, 391), (50, 73), (818, 96)]
TOKENS = 24
results = []


def check(name, good, detail):
    results.append({"check": name, "ok": bool(good), "detail": str(detail)[:300]})
    print(f"{'ok    ' if good else 'FAILED'} {name}: {str(detail)[:300]}", flush=True)


def generate(server, model, text, **parameters):
    body = {"text_input": text, "stream": False, "exclude_input_in_output": True,
            "return_num_output_tokens": True, "parameters": {"temperature": 0, **parameters}}
    status, answer = server.post(f"v2/models/{model}/generate", body)
    return status, json.loads(answer)


def sums_http(server):
    for a, b in SUMS:
        status, answer = generate(server, SAMPLE, f"What is {a} + {b}? Answer:", max_tokens=16, stop="\n")
        text = answer.get("text_output", "")
        check(f"HTTP {a} + {b}", status == 200 and text.strip() == f"{a + b}.", text or answer)


def sums_grpc(server):
    sampling = json.dumps({"temperature": 0, "max_tokens": 16, "stop": "\n"})
    for a, b in SUMS:
        question = f"What is {a} + {b}? Answer:"
        try:
            pieces = wire.stream(server.grpc, SAMPLE, question, sampling)
        except Exception as error:  # any failure of the transport is a failed check
            check(f"gRPC {a} + {b}", False, repr(error))
            continue
        text = "".join(pieces).removeprefix(question)
        check(f"gRPC {a} + {b}", text.strip() == f"{a + b}." and len(pieces) > 1, pieces)


def sample(out):
    with TritonServer(ROOT / "model_repository", control="none", log=out / "smoke.sample.log") as server:
        status, answer = generate(server, SAMPLE, "What is 1 + 1? Answer:", max_tokens=4)
        check("first answer", status == 200, f"{time.monotonic() - server.started_s:.2f} s after the start")
        sums_http(server)
        sums_grpc(server)
        status, answer = generate(server, SAMPLE, "x", temperature=-1)
        check("a bad parameter is refused", status == 400 and "temperature" in json.dumps(answer), answer)
        serving = next((line for line in server.log_since().splitlines() if "serving" in line), "no such line")
        check("served by the GPU", "(sm_" in serving, serving.partition('"')[2])


def large(out, model, extra):
    work = Workload.parse(f"{model}:64:{TOKENS}:1:3")
    with tempfile.TemporaryDirectory(prefix="gpu-smoke-") as folder:
        make_repository(Path(folder) / "repository", work, extra)
        with TritonServer(Path(folder) / "repository", control="none", log=out / f"smoke.{model}.log") as server:
            check(f"{model}: first answer", True, f"{first_answer(server):.2f} s after the start")
            status, answer = generate(server, MODEL, " hi hi hi", max_tokens=TOKENS, ignore_eos=True)
            check(f"{model}: HTTP", status == 200 and answer.get("num_output_tokens") == TOKENS, answer)
            sampling = json.dumps({"temperature": 0, "max_tokens": TOKENS, "ignore_eos": True})
            pieces = wire.stream(server.grpc, MODEL, " hi hi hi", sampling)
            # A reader that lags gets several tokens in one response.
            check(f"{model}: gRPC", 1 < len(pieces) <= TOKENS, f"{len(pieces)} responses of {TOKENS} tokens")
            check(f"{model}: one answer on both", "".join(pieces).endswith(answer.get("text_output", "?")),
                  f"{''.join(pieces)[-60:]!r}")
            check(f"{model}: memory", True, memory_bytes(server.process.pid))


def lookalikes(folder, source, names):
    """Files that are found before the real libraries: a library without their symbols, or (None) no library at all."""
    folder.mkdir()
    for name in names:
        if source:
            shutil.copy(source, folder / name)
        else:
            (folder / name).write_text("not a library")
    return {"LD_LIBRARY_PATH": f"{folder}:{os.environ.get('LD_LIBRARY_PATH', '')}"}


def refused(out, name, repository, wanted, env=None):
    with TritonServer(repository, log=out / f"smoke.{name.replace(' ', '-')}.log", env=env) as server:
        status, answer = server.load_model(MODEL)
        text = answer.decode(errors="replace") if isinstance(answer, bytes) else str(answer)
        check(f"refused: {name}", status >= 400 and wanted in text and server.alive(), text)


def refusals(out, model, extra):
    libm = next(f for f in ("/lib/x86_64-linux-gnu/libm.so.6", "/lib64/libm.so.6") if os.path.exists(f))
    with tempfile.TemporaryDirectory(prefix="gpu-smoke-") as folder:
        folder = Path(folder)
        small, big, tiny = folder / "small", folder / "big", folder / "tiny"
        make_repository(small, Workload.parse("gpt2:8:8:1:1"), {})
        large = Workload.parse(f"{model}:64:8:1:1")
        make_repository(big, large, extra)
        make_repository(tiny, large, {**extra, "gpu_memory_utilization": 0.1})
        kinds = ["libcublasLt.so", *(f"libcublasLt.so.{n}" for n in (1, 9, 10, 11, 12, 13))]
        refused(out, "driver too old", small, "The NVIDIA driver is too old",
                lookalikes(folder / "driver", libm, ["libcuda.so"]))
        refused(out, "no cuBLASLt", small, "cuBLASLt was not found", lookalikes(folder / "none", None, kinds))
        refused(out, "cuBLASLt too old", small, "cuBLASLt is too old", lookalikes(folder / "old", libm, kinds))
        refused(out, "too little memory", tiny, "gpu_memory_utilization")
        with TritonServer(big, control="none", log=out / "smoke.first.log"):
            refused(out, "a second process holds the memory", big, "Free memory on device")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="out")
    parser.add_argument("--model", default="llama-3.1-8b", help="the large model's folder")
    parser.add_argument("--engine", default="{}", help="further keys for its model.json, as JSON")
    args = parser.parse_args()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    extra = json.loads(args.engine)
    steps = (("sample", lambda: sample(out)), ("large", lambda: large(out, args.model, extra)),
             ("refusals", lambda: refusals(out, args.model, extra)))
    for part, step in steps:
        try:
            step()
        except (ServerFailed, Failed, RuntimeError, OSError, ValueError) as failed:
            check(part, False, f"{failed!r}"[-300:])
            print(failed, flush=True)
    (out / "smoke.json").write_text(json.dumps(results, indent=1))
    bad = sum(not r["ok"] for r in results)
    print(f"== smoke: {len(results) - bad} passed, {bad} failed", flush=True)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
