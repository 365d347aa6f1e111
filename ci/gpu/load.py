#!/usr/bin/env python3
"""Real weights under the stock server: a checkpoint of the shape of Llama-3.1-8B, written here in four shards of
safetensors, is loaded from the page cache three times. `run LIBS load`; takes 16 GB of disk below /tmp.
"""
import argparse
import json
import os
import shutil
import struct
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from bench import MODEL, Workload, first_answer, make_repository, memory_bytes, model_folder  # noqa: E402
from server import TritonServer  # noqa: E402

SHAPE = "llama-3.1-8b"
SHARDS = 4
ROUNDS = 3


def tensors(config):
    """Shapes by the names of a Llama checkpoint."""
    hidden, ffn, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    kv = config["num_key_value_heads"] * hidden // config["num_attention_heads"]
    shapes = {"model.embed_tokens.weight": [vocab, hidden], "lm_head.weight": [vocab, hidden], "model.norm.weight": [hidden]}
    layer = {"self_attn.q_proj": [hidden, hidden], "self_attn.k_proj": [kv, hidden], "self_attn.v_proj": [kv, hidden],
             "self_attn.o_proj": [hidden, hidden], "mlp.gate_proj": [ffn, hidden], "mlp.up_proj": [ffn, hidden],
             "mlp.down_proj": [hidden, ffn], "input_layernorm": [hidden], "post_attention_layernorm": [hidden]}
    for n in range(config["num_hidden_layers"]):
        shapes.update({f"model.layers.{n}.{name}.weight": shape for name, shape in layer.items()})
    return shapes


def write_checkpoint(folder):
    shapes = tensors(json.loads((folder / "config.json").read_text()))
    # Random bfloat16, none of them infinite or not a number.
    block = os.urandom(1 << 20).replace(b"\x7f", b"\x3c").replace(b"\xff", b"\xbc") * 16
    index = {}
    for shard in range(SHARDS):
        file = f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors"
        header, end = {}, 0
        for name in list(shapes)[shard::SHARDS]:
            size = 2
            for extent in shapes[name]:
                size *= extent
            header[name] = {"dtype": "BF16", "shape": shapes[name], "data_offsets": [end, end + size]}
            index[name], end = file, end + size
        raw = json.dumps(header).encode()
        raw += b" " * (-len(raw) % 8)
        with open(folder / file, "wb") as out:
            out.write(struct.pack("<Q", len(raw)) + raw)
            while end:
                end -= out.write(block[:min(end, len(block))])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="out")
    out = Path(parser.parse_args().out)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gpu-load-") as work:
        folder, began = Path(work) / "model", time.monotonic()
        shutil.copytree(model_folder(SHAPE), folder)
        write_checkpoint(folder)
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        print(f"wrote {size / 1e9:.1f} GB in {time.monotonic() - began:.0f} s", flush=True)
        for turn in range(ROUNDS):
            repository = Path(work) / f"repository{turn}"
            make_repository(repository, Workload.parse(f"{SHAPE}:64:8:1:1"), {"model": str(folder), "load_format": "auto"})
            with TritonServer(repository, control="none", log=out / f"load.{turn}.log") as server:
                answered_s = first_answer(server)
                loaded = next((line for line in server.log_since().splitlines() if f"{MODEL}: loaded in" in line), "")
                print(f"first answer {answered_s:.2f} s after the start; {loaded.rpartition('] ')[2]}; "
                      f"{memory_bytes(server.process.pid)}", flush=True)


if __name__ == "__main__":
    main()
