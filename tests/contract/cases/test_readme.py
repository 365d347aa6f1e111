"""A new user with the README: its commands, in order, on a checkpoint of one's own; the samples; the sh blocks are run
as they stand, only ports are others. And what the documents quote of the server is what the server says."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[3] / "ci")]

from clients import LIMIT_S  # noqa: E402
from conftest import CONFIG, MODELS, Repository  # noqa: E402
from server import ROOT, TritonServer, free_ports  # noqa: E402

README = (ROOT / "README.md").read_text()
PYTHON = ROOT / "target/venv/bin/python"


def blocks(text):
    """Commands of the fenced sh blocks, in order."""
    return re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S)


class NewUser:
    """Runs blocks as somebody would type them in the checkout; a block that serves goes to a terminal of its own."""

    def __init__(self, home):
        real = Path.home()
        self.env = {**os.environ, "HOME": str(home), "CARGO_HOME": os.environ.get("CARGO_HOME", str(real / ".cargo")),
                    "RUSTUP_HOME": os.environ.get("RUSTUP_HOME", str(real / ".rustup"))}
        self.env.pop("LIBCLANG_PATH", None)
        # The build of ci/test, which has just run: with the examples other features of some crates are on, and all
        # that uses them would be compiled a second time.
        cargo = home / "bin/cargo"
        cargo.parent.mkdir()
        cargo.write_text('#!/bin/sh\n[ "$*" = "build --release" ] && set -- build --release --lib --examples\n'
                         f'exec {shutil.which("cargo")} "$@"\n')
        cargo.chmod(0o755)
        self.env["PATH"] = f"{cargo.parent}:{os.environ['PATH']}"
        self.ports = dict(zip((8000, 8001, 8002), free_ports(3)))
        self.serving = None
        self.log = home / "server.log"

    def with_own_ports(self, text):
        http, grpc, metrics = self.ports.values()
        text = re.sub(r"localhost:(8\d+)", lambda m: f"localhost:{self.ports[int(m[1])]}", text)
        text = text.replace("samples/client.py", f"samples/client.py --url localhost:{grpc}")
        serve = f"ci/server.py --http-port {http} --grpc-port {grpc} --metrics-port {metrics}"
        return text.replace("ci/server.py", serve)

    def run(self, block):
        result = subprocess.run(["bash", "-eo", "pipefail", "-c", self.with_own_ports(block)], cwd=ROOT, env=self.env,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=1200)
        assert result.returncode == 0, f"{block}\n{result.stdout}"
        return result.stdout

    def serve(self, block):
        """In a terminal of its own, until the line that says ready."""
        self.serving = subprocess.Popen(["bash", "-c", f"exec {self.with_own_ports(block).strip()}"], cwd=ROOT,
                                        env=self.env, stdout=subprocess.PIPE, stderr=self.log.open("w"), text=True,
                                        start_new_session=True)
        line = self.serving.stdout.readline()
        assert line.startswith("ready"), self.log.read_text()

    def interrupt(self):
        os.killpg(self.serving.pid, signal.SIGINT)
        return self.serving.wait(LIMIT_S)


def test_the_readmes_commands_in_order(tmp_path):
    shutil.copytree(MODELS / "llama-tiny", tmp_path / "SmolLM2-135M")
    user = NewUser(tmp_path)
    demo, prepare, serve, ask = blocks(README)
    assert "stopped cleanly" in user.run(demo)
    user.run(prepare)
    tree = {str(p.relative_to(tmp_path / "models")) for p in (tmp_path / "models").rglob("*")}
    assert tree >= {"smol/config.pbtxt", "smol/1/model.json", "smol/1/weights/config.json"}, "as the README draws it"
    user.serve(serve)
    try:
        said = user.run(ask)
    finally:
        code = user.interrupt()
    assert code == 0, "Ctrl-C is an end in order"
    assert re.search(r'"text_output":"The capital of France is.+"', said)
    events = re.findall(r"^data: (\{.*\})$", said, re.M)
    # As many as tokens, or fewer: the text may end early, and what comes faster than it can be sent goes out together.
    assert 1 <= len(events) <= 40 and all("text_output" in json.loads(e) for e in events)
    assert "4 of 4 answers" in said and (tmp_path / "results.txt").read_text().count("=========") == 4
    assert re.search(r'nv_inference_exec_count\{model="smol",version="1"\} [1-9]', said)


def test_every_file_that_a_document_names_is_there():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "CHANGELOG.md"]:
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[\w-]+)?\)", page.read_text()):
            assert link.startswith("http") or (page.parent / link).exists(), f"{page.name}: {link}"
        for anchor_page, anchor in re.findall(r"\]\(([\w/.]*)#([\w-]+)\)", page.read_text()):
            target = (page.parent / anchor_page if anchor_page else page).read_text()
            headings = {re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-")
                        for h in re.findall(r"^#+ (.+)$", target, re.M)}
            assert anchor in headings, f"{page.name}: {anchor_page}#{anchor}"
        for command in re.findall(r"(?<![\w/.])(?:ci|samples)/[\w.-]*\w", page.read_text()):
            assert (ROOT / command).exists(), f"{page.name}: {command}"


def test_the_sample_client_has_the_options_of_nvidias(tmp_path):
    """The command lines that are written for the Python backend's sample client."""
    repository = Repository(tmp_path)
    repository.add("vllm_model")
    (tmp_path / "prompts.txt").write_text("Hello\nThe sky\n")
    with TritonServer(repository.folder, control="none") as server:
        command = [PYTHON, ROOT / "samples/client.py", "-u", server.grpc, "-m", "vllm_model", "-t", "60"]
        more = ["--iterations", "2", "--offset", "100", "--results-file", tmp_path / "out.txt", "--sampling",
                '{"temperature": 0, "max_tokens": 4}']
        for mode in ([], ["-s"], ["--exclude-inputs-in-outputs"]):
            result = subprocess.run([*command, *more, *mode], cwd=tmp_path, capture_output=True, text=True)
            assert result.returncode == 0 and "4 of 4 answers" in result.stdout, result.stderr
            answers = (tmp_path / "out.txt").read_text().split("\n\n=========\n\n")[:-1]
            assert len(answers) == 4 and answers[:2] == answers[2:]
            assert answers[0].startswith("Hello") == (mode == [])
        wrong = subprocess.run([*command, "-m", "no_model"], cwd=tmp_path, capture_output=True, text=True)
        assert wrong.returncode == 1 and "Traceback" not in wrong.stderr
    down = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert down.returncode == 1 and "Traceback" not in down.stderr, down.stderr


TEMPLATE = ("{{ bos_token }}{% for m in messages %}{% if m['role'] not in ['system', 'user', 'assistant'] %}"
            "{{ raise_exception('role') }}{% endif %}<|{{ m['role'] }}|>{{ m['content'] }}\n{% endfor %}"
            "{% if add_generation_prompt %}<|assistant|>{% endif %}")


def test_the_sample_chat_applies_the_checkpoints_template(tmp_path):
    """What the server continues is the rendered text: the second answer depends on the first turn, and the beginning
    is not marked twice."""
    checkpoint = tmp_path / "llama"
    shutil.copytree(MODELS / "llama-tiny", checkpoint)
    config = json.loads((checkpoint / "tokenizer_config.json").read_text())
    (checkpoint / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": TEMPLATE}))
    repository = Repository(tmp_path / "models")
    repository.add("chat", checkpoint=checkpoint)
    greedy = {"max_tokens": 4, "temperature": 0}
    with TritonServer(repository.folder, control="none") as server:
        def continued(text):
            body = {"text_input": text, "exclude_input_in_output": True, "parameters": greedy}
            return json.loads(server.post("v2/models/chat/generate", body)[1])["text_output"]
        first = continued("<|system|>Be brief.\n<|user|>Hello\n<|assistant|>")
        second = continued(f"<|system|>Be brief.\n<|user|>Hello\n<|assistant|>{first}\n<|user|>More\n<|assistant|>")
        command = [PYTHON, ROOT / "samples/chat.py", "--url", server.url, "--model", "chat", "--template", checkpoint,
                   "--system", "Be brief.", "--max-tokens", "4", "--temperature", "0"]
        result = subprocess.run(command, input="Hello\nMore\n/exit\n", capture_output=True, text=True)
        assert result.returncode == 0 and result.stdout == f"> {first}\n> {second}\n> ", result
    bare = subprocess.run([*command[:-7], MODELS / "llama-tiny"], input="Hello\n", capture_output=True, text=True)
    assert bare.returncode != 0 and "no chat template" in bare.stderr and "Traceback" not in bare.stderr
