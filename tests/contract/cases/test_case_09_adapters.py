"""Case 9: adapters of multi_lora.json from `~`, from folders that exist, and from a hub: its cache, then downloaded."""
import json
import shutil
import threading
import time

import pytest
from clients import PROMPT, generate
from conftest import MODELS, Repository, load
from hubs import COMMIT, StandInHub, serving
from server import TritonServer

FOLDER = MODELS / "llama-lora-a"
GREEDY = {"temperature": 0, "max_tokens": 12}


class Hub(StandInHub):
    """acme/sheep is there, acme/slow answers late, all else is not found."""
    asked = []
    release = threading.Event()
    repo = "acme/sheep"
    folder = FOLDER
    listed_too = ["tokenizer.json", "README.md"]

    def refusal(self):
        if "acme/slow" in self.path:
            self.release.wait(30)
        return None if self.repo in self.path else 404


@pytest.fixture(scope="module")
def hub():
    with serving(Hub) as address:
        yield address
        Hub.release.set()


def ask(server, adapter):
    return generate(server, "lora", {"text_input": PROMPT, "exclude_input_in_output": True,
                                     "parameters": {**GREEDY, "lora_name": adapter}})


def served(tmp_path, adapters, **env):
    repository = Repository(tmp_path / "repository")
    repository.add("lora", checkpoint=MODELS / "llama-tiny", engine={"enable_lora": "true", "max_lora_rank": 8},
                   files={"1/multi_lora.json": json.dumps(adapters)})
    shutil.copytree(FOLDER, repository.folder / "lora/1/beside")
    home = tmp_path / "home"
    shutil.copytree(FOLDER, home / "loras/sheep")
    return TritonServer(repository.folder, env={"HOME": str(home), "HF_HOME": str(home / "hf"), **env})


def test_case_09_home_folders_and_a_hub(hub, tmp_path):
    adapters = {"absolute": str(FOLDER), "home": "~/loras/sheep", "beside": "beside", "hub": "acme/sheep",
                "slow": "acme/slow", "missing": "acme/missing", "nowhere": "./not/there", "gone": "~/gone"}
    with served(tmp_path, adapters, HF_ENDPOINT=hub, HF_HUB_OFFLINE="0") as server:
        load(server, "lora")
        assert not Hub.asked, "an adapter is fetched when it is asked for"
        slow = threading.Thread(target=ask, args=(server, "slow"), daemon=True)
        slow.start()
        limit = time.monotonic() + 20
        while not any("acme/slow" in path for path in Hub.asked) and time.monotonic() < limit:
            time.sleep(0.05)
        texts = {}
        for name in ("absolute", "home", "beside"):
            status, answer = ask(server, name)
            assert status == 200, (name, answer)
            texts[name] = answer["text_output"]
        assert slow.is_alive(), "folders are read while a hub keeps another adapter waiting"
        Hub.release.set()
        slow.join()
        status, answer = ask(server, "hub")
        assert status == 200, answer
        assert {answer["text_output"]} == set(texts.values())
        assert not any("tokenizer.json" in path or "README" in path for path in Hub.asked)
        for name, words in (("missing", ["'acme/missing' is no folder in ", "on the hub: ", "404"]),
                            ("nowhere", ["neither ", "/lora/1/./not/there", "no name of an adapter on a hub"]),
                            ("gone", ["home/gone/adapter_config.json not found"])):
            status, answer = ask(server, name)
            assert status == 400 and all(word in answer["error"] for word in words), (name, answer)
            assert f"LoRA adapter '{name}': " in answer["error"]
        assert ask(server, "home")[1]["text_output"] == texts["home"]


def test_case_09_from_the_cache_alone(tmp_path):
    snapshot = tmp_path / "home/hf/hub/models--org--name/snapshots" / COMMIT
    snapshot.parent.mkdir(parents=True)
    shutil.copytree(FOLDER, snapshot)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text(COMMIT)
    with served(tmp_path, {"a": "org/name", "b": "org/other"}, HF_HUB_OFFLINE="1") as server:
        load(server, "lora")
        status, answer = ask(server, "a")
        assert status == 200, answer
        status, answer = ask(server, "b")
        assert status == 400 and "HF_HUB_OFFLINE" in answer["error"] and "home/hf/hub" in answer["error"], answer
