"""ci/package.py on the library as cargo built it: what a release holds, and that it says the truth of itself."""
import base64
import csv
import hashlib
import importlib.resources
import importlib.util
import io
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import jsonschema
import pytest
import referencing
import yaml
from packaging.utils import parse_wheel_filename

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "ci"))

from server import built_library  # noqa: E402

NAME = "libtriton_vllm.so"
VERSION = re.search(r'^version = "(.+)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]


def run(*command):
    return subprocess.run(command, check=True, text=True, capture_output=True).stdout


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    out = tmp_path_factory.mktemp("release") / "artifacts"
    made = run(sys.executable, ROOT / "ci/package.py", "--library", built_library(), "--out", out)
    assert re.search(rf"{NAME} \d+\.\d MB \(\d+\.\d MB with symbols\)", made), made
    return out


def exports(library):
    return sorted(line.split()[-1] for line in run("nm", "-D", "--defined-only", library).splitlines())


def test_the_library_is_stripped_and_still_loads(artifacts):
    library = artifacts / NAME
    sections = run("objdump", "-h", library)
    assert ".gnu_debuglink" in sections and ".debug_" not in sections
    assert "no symbols" in subprocess.run(["nm", library], capture_output=True, text=True).stderr
    assert "TRITONBACKEND_Initialize" in exports(library) and exports(library) == exports(built_library())
    run(sys.executable, "-c", "import ctypes, sys; ctypes.CDLL(sys.argv[1])", library)
    debug = artifacts / f"{NAME}.debug"
    assert ".debug_line" in run("objdump", "-h", debug) and debug.stat().st_size > 1 << 20


def test_checksums_are_of_every_file(artifacts):
    lines = (artifacts / "SHA256SUMS").read_text().splitlines()
    listed = dict(reversed(line.split("  ", 1)) for line in lines)
    files = {str(p.relative_to(artifacts)): p for p in artifacts.rglob("*") if p.is_file()}
    del files["SHA256SUMS"]
    assert listed == {name: sha256(path.read_bytes()) for name, path in files.items()}


def cyclonedx(name):
    return json.loads((importlib.resources.files("cyclonedx.schema._res") / f"{name}.SNAPSHOT.schema.json").read_text())


def test_the_sbom_is_cyclonedx_and_names_what_is_linked_in(artifacts):
    sbom = json.loads((artifacts / "sbom.cdx.json").read_text())
    schema = cyclonedx("bom-1.5")
    others = [(f"{name}.schema.json", cyclonedx(name)) for name in ("spdx", "jsf-0.82")]
    base = schema["$id"].rsplit("/", 1)[0]
    resources = [(f"{base}/{name}", referencing.Resource.from_contents(s)) for name, s in others]
    validator = jsonschema.Draft7Validator(schema, registry=referencing.Registry().with_resources(resources))
    validator.validate(sbom)
    assert list(validator.iter_errors({**sbom, "components": [{"type": "crate"}]})), "the schema judges"

    assert sbom["metadata"]["component"]["hashes"][0]["content"] == sha256((artifacts / NAME).read_bytes())
    names = {c["name"]: c for c in sbom["components"]}
    lock = (ROOT / "Cargo.lock").read_text()
    for name in ("tokenizers", "llguidance", "cudarc", "ureq", "serde_json"):
        entry = f'name = "{name}"\nversion = "{names[name]["version"]}"'
        assert entry in lock and names[name]["hashes"][0]["content"] in lock, name
    for name in ("bindgen", "jsonschema", "windows-sys", "triton_vllm"):
        assert name not in names, f"{name} is not in the library"
    refs = {c["bom-ref"] for c in sbom["components"]} | {sbom["metadata"]["component"]["bom-ref"]}
    assert {d["ref"] for d in sbom["dependencies"]} == refs
    assert all(set(d["dependsOn"]) <= refs for d in sbom["dependencies"])


@pytest.fixture(scope="module")
def wheel(artifacts):
    [path] = artifacts.glob("*.whl")
    return path


def test_the_tag_of_the_wheel_is_what_the_library_needs(wheel, artifacts):
    named = re.findall(r"\(?GLIBC_(\d+)\.(\d+)", run("objdump", "-T", artifacts / NAME))
    major, minor = max((int(a), int(b)) for a, b in named)
    name, version, _, [tag] = parse_wheel_filename(wheel.name)
    assert (name, str(version)) == ("triton-vllm", VERSION)
    assert str(tag) == f"py3-none-manylinux_{major}_{minor}_x86_64"
    with zipfile.ZipFile(wheel) as archive:
        facts = json.loads(archive.read("triton_vllm/build.json"))
        assert f"Tag: {tag}\n" in archive.read(f"triton_vllm-{VERSION}.dist-info/WHEEL").decode()
        assert archive.read(f"triton_vllm/{NAME}") == (artifacts / NAME).read_bytes()
    assert facts["glibc"] == f"{major}.{minor}" and facts["version"] == VERSION
    assert facts["sha256"] == sha256((artifacts / NAME).read_bytes())


def test_the_record_of_the_wheel_is_right(wheel):
    with zipfile.ZipFile(wheel) as archive:
        record = f"triton_vllm-{VERSION}.dist-info/RECORD"
        rows = list(csv.reader(io.StringIO(archive.read(record).decode())))
        assert sorted(row[0] for row in rows) == sorted(archive.namelist())
        for path, digest, size in rows:
            if path != record:
                data = archive.read(path)
                expected = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
                assert (digest, size) == (f"sha256={expected}", str(len(data))), path


def test_the_image_holds_what_its_dockerfile_copies(artifacts):
    image = artifacts / "image"
    backend = "rootfs/opt/tritonserver/backends/vllm"
    files = {str(p.relative_to(image)) for p in image.rglob("*") if p.is_file()}
    sample = ROOT / "model_repository"
    samples = {f"rootfs/opt/tritonserver/samples/vllm/{p.relative_to(sample)}" for p in sample.rglob("*") if p.is_file()}
    assert files == samples | {"Dockerfile", f"{backend}/{NAME}", f"{backend}/LICENSE.libtriton_vllm"}
    assert (image / backend / NAME).read_bytes() == (artifacts / NAME).read_bytes()

    lines = [l.split() for l in (image / "Dockerfile").read_text().splitlines() if l and not l.startswith("#")]
    stages = {}
    for instruction, *words in lines:
        if instruction == "FROM":
            assert words[1] == "AS"
            base, stage = words[0], words[2]
            stages[stage] = (base, [])
        else:
            stages[stage][1].append([instruction, *words])
    table = [l.split() for l in (ROOT / "ci/images.txt").read_text().splitlines() if not l.startswith("#")]
    assert list(stages) == ["library", *(f"server-{tag}" for tag, _ in table)]
    base, steps = stages["library"]
    assert base == "scratch" and steps == [["COPY", f"{backend}/", "/"]]
    for tag, _ in table:
        base, steps = stages[f"server-{tag}"]
        assert base == f"nvcr.io/nvidia/tritonserver:{tag}" and steps[0] == ["COPY", "rootfs/", "/"]
        assert steps[-1][0] == "CMD" and json.loads(" ".join(steps[-1][1:]))[0] == "tritonserver"
    for instruction, *words in (step for _, steps in stages.values() for step in steps):
        if instruction == "COPY":
            assert (image / words[0]).is_dir(), words


def test_every_server_that_is_tested_has_an_image():
    rows = lambda name: [l.split() for l in (ROOT / "ci" / name).read_text().splitlines() if not l.startswith("#")]
    assert {server for _, server in rows("servers.txt")} <= {server for _, server in rows("images.txt")}


def test_one_version_everywhere():
    changelog = (ROOT / "CHANGELOG.md").read_text()
    newest = re.search(r"^## (\S+), (\d{4}-\d\d-\d\d)$", changelog, re.M)
    assert newest and newest[1] == VERSION
    kubernetes = (ROOT / "deploy/kubernetes.yaml").read_text()
    assert re.findall(r"image: \S+:(\S+)", kubernetes) == [VERSION]


def test_no_dependency_needs_a_newer_rust_than_we_say():
    arguments = ["metadata", "--format-version=1", "--locked", "--filter-platform=x86_64-unknown-linux-gnu"]
    packages = json.loads(subprocess.run(["cargo", *arguments], cwd=ROOT, check=True, capture_output=True).stdout)["packages"]
    needed = {p["name"]: tuple(int(n) for n in p["rust_version"].split(".")[:2]) for p in packages if p["rust_version"]}
    ours = needed.pop("triton_vllm")
    assert len(needed) > 50 and max(needed.values()) <= ours, {n: v for n, v in needed.items() if v > ours}
    assert f"| {ours[0]}.{ours[1]} and newer" in (ROOT / "docs/install.md").read_text()


def test_the_workflow_runs_tests_and_releases_tags():
    path = ROOT / ".github/workflows/ci.yml"
    workflow = yaml.safe_load(path.read_text())
    workflow["on"] = workflow.pop(True)  # YAML 1.1 takes `on` for a boolean.
    # Only the schema is wanted: what the package itself imports is not installed.
    package = Path(importlib.util.find_spec("check_jsonschema").origin).parent
    schema = package / "builtin_schemas/vendor/github-workflows.json"
    jsonschema.Draft7Validator(json.loads(schema.read_text())).validate(workflow)
    assert workflow["on"]["push"]["tags"] == ["v*"]
    jobs = workflow["jobs"]
    commands = {name: [step.get("run", "") for step in job["steps"]] for name, job in jobs.items()}
    assert "ci/test" in commands["test"] and "ci/release" in commands["release"]
    assert jobs["release"]["needs"] == "test" and jobs["release"]["if"] == "startsWith(github.ref, 'refs/tags/v')"
    uses = [step["uses"] for job in jobs.values() for step in job["steps"] if "uses" in step]
    assert uses and all(re.fullmatch(r"actions/[a-z-]+@v\d+", use) for use in uses), "only GitHub's own, pinned"
    for command in (word for lines in commands.values() for word in "\n".join(lines).split() if word.startswith("ci/")):
        assert (ROOT / command).exists(), command
