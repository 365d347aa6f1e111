"""Folders as users have them: pointers of Git LFS, caches of a hub, other formats, configs that leave keys out or hold
values of another type, JSON as Python and Windows write it. What can be served answers as llama-tiny does, the rest is
refused in one line that names file, cause and remedy; opt-tiny goes on beside."""
import http.server
import json
import shutil
import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from clients import PROMPT, generate, golden_text  # noqa: E402
from conftest import CONFIG, ENGINE, MODELS, Repository, load, repository, server, tiny  # noqa: E402, F401
from server import ROOT, TritonServer  # noqa: E402

LLAMA = MODELS / "llama-tiny"
GREEDY = {"temperature": 0, "max_tokens": 12}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4665\nsize 500\n"


def copied(folder, **changes):
    """llama-tiny with other files: text, a function of the old text, or None for no such file. `__` stands for a dot."""
    shutil.copytree(LLAMA, folder)
    for path in folder.iterdir():
        path.chmod(0o644)
    for name, change in changes.items():
        path = folder / name.replace("__", ".")
        if change is None:
            path.unlink()
        else:
            path.write_text(change(path.read_text()) if callable(change) else change)
    return folder


def config(**keys):
    """A change of config.json: keys to set; None removes one."""
    def change(text):
        made = {**json.loads(text), **keys}
        return json.dumps({key: value for key, value in made.items() if value is not None})
    return change


def refusal(server, name):
    status, text = server.load_model(name)
    assert server.alive(), server.log_tail()
    assert status in (400, 500), text
    said = json.loads(text)["error"].split("UNAVAILABLE state: ", 1)[-1].rstrip(";\n ")
    assert "\n" not in said and len(said) < 1200 and "Python" not in said, said
    status, answer = generate(server, "opt-tiny", {"text_input": PROMPT, "parameters": {"temperature": 0}})
    assert (status, answer["text_output"]) == (200, PROMPT + golden_text())
    return said


def text_of(server, name):
    status, answer = generate(server, name, {"text_input": PROMPT, "parameters": GREEDY})
    assert status == 200, answer
    server.unload_model(name)
    return answer["text_output"]


@pytest.fixture(scope="module")
def usual(tiny, repository):
    """What llama-tiny answers."""
    load(tiny, repository.add("llama-tiny", checkpoint=LLAMA))
    return text_of(tiny, "llama-tiny")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json",
                                  "generation_config.json"])
def test_case_11_a_pointer_of_git_lfs(tiny, repository, tmp_path, name):
    folder = copied(tmp_path / "model", **{name.replace(".", "__"): POINTER})
    said = refusal(tiny, repository.add(f"lfs-{name}", checkpoint=folder))
    assert f"{folder / name} is a Git LFS pointer" in said and "git lfs pull" in said and "500 bytes" in said, said


@pytest.mark.parametrize("text, words", [("", "is empty"), ("<!DOCTYPE html>\n<html>", "is a web page")])
def test_case_11_broken_downloads(tiny, repository, tmp_path, text, words):
    folder = copied(tmp_path / "model", tokenizer__json=text)
    said = refusal(tiny, repository.add(f"download-{len(text)}", checkpoint=folder))
    assert f"{folder / 'tokenizer.json'} {words}" in said, said


def test_case_12_a_folder_of_a_hubs_cache(tiny, repository, tmp_path, usual):
    cache = tmp_path / "models--org--name"
    copied(cache / "snapshots" / "0123abcd")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0123abcd")
    load(tiny, repository.add("cache", checkpoint=cache))
    assert text_of(tiny, "cache") == usual
    said = refusal(tiny, repository.add("cache-v2", checkpoint=cache, engine={"revision": "v2"}))
    assert "without a snapshot of 'v2'" in said and "0123abcd" in said, said


@pytest.mark.parametrize("files, words", [
    ([], "is an empty folder"),
    (["tekken.json", "consolidated.safetensors"], "a part of a model in Mistral's own format"),
    (["tokenizer.json", "notes.txt"], "config.json is missing"),
    (["adapter_config.json", "adapter_model.safetensors"], "is a LoRA adapter"),
    (["model.Q4.gguf"], "or it is no whole GGUF file"),
])
def test_case_12_what_a_folder_lacks(tiny, repository, tmp_path, files, words):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in files:
        (folder / name).write_text("{}")
    said = refusal(tiny, repository.add(f"folder-{len(files)}-{words.split()[-1]}", checkpoint=folder))
    assert str(folder) in said and words in said, said


def test_case_13_gguf(tiny, repository):
    given = {"model": "/weights/Meta-Llama-3-8B-Instruct.Q4_K_M.gguf", "max_model_len": 3392, "dtype": "float16"}
    said = refusal(tiny, repository.add("gguf", model_json=json.dumps(given)))
    assert "is no GGUF file (tried: /weights/Meta-Llama-3-8B-Instruct.Q4_K_M.gguf)" in said, said


def test_paths_that_were_tried_are_listed(tiny, repository):
    said = refusal(tiny, repository.add("nowhere", checkpoint="./no/such/folder"))
    assert f"{repository.folder / 'nowhere' / '1'}/" in said and "tried: " in said, said


def test_case_14_json_as_python_and_windows_write_it(tiny, repository, tmp_path, usual):
    def marked(text):
        return "\ufeff" + text

    def with_words(text):
        return marked(text).replace("{", '{"x": NaN, "y": [Infinity, -Infinity], "z": "NaN",', 1)

    folder = copied(tmp_path / "model", config__json=with_words, tokenizer__json=marked,
                    tokenizer_config__json=with_words, special_tokens_map__json=marked,
                    generation_config__json=with_words)
    arguments = json.dumps({**ENGINE, "model": str(folder)})
    load(tiny, repository.add("marked", model_json="\ufeff" + arguments))
    assert text_of(tiny, "marked") == usual


def test_case_16_another_name_of_llama(tiny, repository, tmp_path, usual):
    folder = copied(tmp_path / "model", config__json=config(architectures=["LLaMAForCausalLM"]))
    load(tiny, repository.add("alias", checkpoint=folder))
    assert text_of(tiny, "alias") == usual


def test_case_17_keys_that_config_json_leaves_out(tiny, repository, tmp_path, usual):
    absent = ["hidden_act", "rms_norm_eps", "rope_theta", "rope_scaling", "tie_word_embeddings", "attention_bias",
              "mlp_bias", "model_type", "torch_dtype", "dtype", "eos_token_id", "use_cache"]
    folder = copied(tmp_path / "model", config__json=config(**dict.fromkeys(absent)))
    load(tiny, repository.add("bare", checkpoint=folder))
    assert text_of(tiny, "bare") == usual


@pytest.mark.parametrize("key, place", [("rope_scaling", "top"), ("rope_scaling", "overrides")])
def test_case_08_rope_scaling_as_text(tiny, repository, key, place):
    """llama-tiny is made for 512 tokens; twice as many pass only with the rope stretched."""
    scaling = {key: json.dumps({"type": "dynamic", "factor": 2.0})}
    given = scaling if place == "top" else {"hf_overrides": scaling}
    name = repository.add(f"rope-{place}", checkpoint=LLAMA, engine={"max_model_len": 1024, **given})
    load(tiny, name)
    text_of(tiny, name)
    said = refusal(tiny, repository.add(f"plain-{place}", checkpoint=LLAMA, engine={"max_model_len": 1024}))
    assert "max_model_len (1024) is greater than the derived max_model_len" in said, said


@pytest.mark.parametrize("key, value", [
    ("rms_norm_eps", "x"), ("rms_norm_eps", -0.5), ("rope_theta", "500000"), ("tie_word_embeddings", "false"),
    ("num_attention_heads", 0), ("num_hidden_layers", -2), ("hidden_size", "64"), ("head_dim", 1 << 21),
    ("max_position_embeddings", "512"), ("rope_scaling", "linear"),
    ("architectures", "LlamaForCausalLM"),
])
def test_attack_13_values_of_the_wrong_type(tiny, repository, tmp_path, key, value):
    folder = copied(tmp_path / "model", config__json=config(**{key: value}))
    said = refusal(tiny, repository.add(f"type-{key}-{str(value)[:2]}".replace(".", ""), checkpoint=folder))
    assert f"{folder / 'config.json'}: '" in said and key in said and str(value) in said, said


@pytest.mark.parametrize("name, key, value", [
    ("tokenizer_config.json", "add_bos_token", "true"), ("tokenizer_config.json", "bos_token", 3),
    ("tokenizer_config.json", "model_max_length", "512"), ("generation_config.json", "eos_token_id", "2"),
])
def test_attack_13_other_files(tiny, repository, tmp_path, name, key, value):
    def change(text):
        return json.dumps({**json.loads(text), key: value})

    folder = copied(tmp_path / "model", **{name.replace(".", "__"): change})
    said = refusal(tiny, repository.add(f"other-{key}", checkpoint=folder))
    assert f"{folder / name}: '{key}' must be" in said, said


def test_overrides_without_effect_are_warned_of(tiny, repository):
    overrides = {"rope_scalling": {"type": "linear", "factor": 2.0}, "rope_theta": 10000.0}
    load(tiny, repository.add("overrides", checkpoint=LLAMA, engine={"hf_overrides": overrides}))
    log = tiny.log_since()
    tiny.unload_model("overrides")
    assert "'hf_overrides.rope_scalling' has no effect" in log and "'hf_overrides.rope_theta'" not in log, log


class Hub(http.server.BaseHTTPRequestHandler):
    """acme/model: a config.json that cannot be served, and weights."""
    asked = []
    files = {"config.json": json.dumps({"architectures": ["LlamaForCausalLM"], "rms_norm_eps": "x"}).encode(),
             "model.safetensors": b"\0" * 4096}

    def do_GET(self):
        self.asked.append(self.path)
        name = self.path.rsplit("/", 1)[-1]
        listing = {"sha": "0123abcd", "siblings": [{"rfilename": name} for name in self.files]}
        body = json.dumps(listing).encode() if self.path.startswith("/api/") else self.files[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{name}"'.replace(".", "-"))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


def test_a_hub_is_asked_for_weights_last(tmp_path):
    repository = Repository(tmp_path / "repository")
    repository.add("model", checkpoint="acme/model")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{hub.server_port}"
        env = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0"}
        with TritonServer(repository.folder, env=env) as server:
            status, text = server.load_model("model")
        hub.shutdown()
    assert status in (400, 500) and "'rms_norm_eps' must be a positive number" in text, text
    assert not [path for path in Hub.asked if path.endswith(".safetensors")], Hub.asked
