#!/usr/bin/env python3
"""Makes the files of a release out of a built library. Compiles nothing; ci/release calls it after the build.

In the folder that --out names:
  libtriton_vllm.so, .debug    stripped, and its symbols for stack traces
  sbom.cdx.json                what is linked in, as CycloneDX 1.5
  triton_vllm-*.whl            the library with the command `triton-vllm` (wheel/)
  image/                       a Dockerfile with a stage per tag of ci/images.txt, and the files that it copies
  VERSION, SHA256SUMS, LICENSE, CHANGELOG.md, deploy files
"""
import argparse
import base64
import datetime
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import uuid
import zipfile
from pathlib import Path

from elftools.elf.elffile import ELFFile

ROOT = Path(__file__).resolve().parent.parent
NAME = "libtriton_vllm.so"
PLATFORM = "x86_64-unknown-linux-gnu"
ENTRY_POINTS = "[console_scripts]\ntriton-vllm = triton_vllm.__main__:main\n"
IMAGE = "nvcr.io/nvidia/tritonserver"
BACKEND = "opt/tritonserver/backends/vllm"
BESIDE = ("LICENSE", "CHANGELOG.md", "deploy/grafana-dashboard.json", "deploy/prometheus-alerts.yml",
          "deploy/kubernetes.yaml", "deploy/replicas.yaml")


def run(*command):
    return subprocess.run(command, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE).stdout


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def version():
    return re.search(r'^version = "(.+)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]


def commit():
    """(short id, time in seconds since 1970), so that the same commit makes the same files."""
    short, seconds = run("git", "log", "-1", "--format=%h %ct").split()
    return short, int(os.environ.get("SOURCE_DATE_EPOCH", seconds))


def strip(library, out):
    """Symbols go into a file of their own, which debuggers and backtraces find beside the library."""
    debug = out.with_name(f"{out.name}.debug")
    run("objcopy", "--only-keep-debug", str(library), str(debug))
    run("objcopy", "--strip-all", f"--add-gnu-debuglink={debug}", str(library), str(out))


def glibc_needed(library):
    """(major, minor) of the newest glibc version that the library names."""
    found = set()
    with open(library, "rb") as file:
        for _, versions in ELFFile(file).get_section_by_name(".gnu.version_r").iter_versions():
            names = (re.fullmatch(r"GLIBC_(\d+)\.(\d+)(?:\.\d+)?", v.name) for v in versions)
            found |= {(int(n[1]), int(n[2])) for n in names if n}
    return max(found)


def linked(metadata):
    """Packages that end up in the library, by id: those over which no edge for builds or tests leads."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    found, open_ids = {}, [metadata["resolve"]["root"]]
    while open_ids:
        identity = open_ids.pop()
        if identity not in found:
            edges = nodes[identity]["deps"]
            found[identity] = [e["pkg"] for e in edges if any(k["kind"] is None for k in e["dep_kinds"])]
            open_ids += found[identity]
    return found


def checksums():
    """SHA-256 of each package as Cargo.lock has it, by (name, version)."""
    blocks = (ROOT / "Cargo.lock").read_text().split("[[package]]")[1:]
    fields = [dict(re.findall(r'^(\w+) = "(.+)"', block, re.M)) for block in blocks]
    return {(f["name"], f["version"]): f.get("checksum") for f in fields}


def purl(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def component(package, sums):
    licence = {"expression": package["license"].replace("/", " OR ")}
    made = {"type": "library", "bom-ref": purl(package), "name": package["name"], "version": package["version"],
            "purl": purl(package), "licenses": [licence]}
    checksum = sums.get((package["name"], package["version"]))
    if checksum:
        made["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    return made


def sbom(library, seconds):
    """CycloneDX 1.5: the library, every crate in it with licence and checksum, and who uses whom."""
    metadata = json.loads(run("cargo", "metadata", "--format-version=1", "--locked", f"--filter-platform={PLATFORM}"))
    packages = {p["id"]: p for p in metadata["packages"]}
    graph, sums = linked(metadata), checksums()
    root = packages[metadata["resolve"]["root"]]
    main = component(root, sums) | {"hashes": [{"alg": "SHA-256", "content": sha256(library.read_bytes())}]}
    others = sorted((packages[i] for i in graph if i != root["id"]), key=purl)
    edges = [{"ref": purl(packages[i]), "dependsOn": sorted({purl(packages[d]) for d in deps})}
             for i, deps in graph.items()]
    time = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return {
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, main['hashes'][0]['content'])}",
        "metadata": {"timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ"), "component": main},
        "components": [component(p, sums) for p in others],
        "dependencies": sorted(edges, key=lambda edge: edge["ref"]),
    }


def wheel_metadata():
    readme = (ROOT / "wheel/README.md").read_text()
    return (f"Metadata-Version: 2.4\nName: triton-vllm\nVersion: {version()}\n"
            "Summary: A vLLM backend for the stock NVIDIA tritonserver, as one shared library\n"
            "License-Expression: Apache-2.0\nLicense-File: LICENSE\nRequires-Python: >=3.8\n"
            f"Description-Content-Type: text/markdown\n\n{readme}")


def wheel(library, out, facts, seconds):
    """The library and wheel/triton_vllm, tagged with the glibc that the library needs."""
    tag = "py3-none-manylinux_{}_x86_64".format(facts["glibc"].replace(".", "_"))
    info = f"triton_vllm-{version()}.dist-info"
    files = {f"triton_vllm/{p.name}": p.read_bytes() for p in sorted((ROOT / "wheel/triton_vllm").glob("*.py"))}
    files |= {f"triton_vllm/{NAME}": library.read_bytes(),
              "triton_vllm/build.json": json.dumps(facts, indent=1).encode(),
              f"{info}/METADATA": wheel_metadata().encode(),
              f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: ci/package.py\n"
                               f"Root-Is-Purelib: false\nTag: {tag}\n".encode(),
              f"{info}/entry_points.txt": ENTRY_POINTS.encode(),
              f"{info}/licenses/LICENSE": (ROOT / "LICENSE").read_bytes()}
    digest = lambda data: base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    record = "".join(f"{path},sha256={digest(data)},{len(data)}\n" for path, data in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()

    time = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).timetuple()[:6]
    path = out / f"triton_vllm-{version()}-{tag}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, time)
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return path


def tags():
    lines = (ROOT / "ci/images.txt").read_text().splitlines()
    return [line.split()[0] for line in lines if line and not line.startswith("#")]


def dockerfile():
    """One stage per server tag, all with the same files; `library` has them without a server."""
    server = "\n".join(f"FROM {IMAGE}:{tag} AS server-{tag}\nCOPY rootfs/ /\nEXPOSE 8000 8001 8002\n"
                       'CMD ["tritonserver", "--model-repository=/models"]\n' for tag in tags())
    return ("# Images with libtriton_vllm.so, from the files beside this one; nothing is compiled.\n#\n"
            f"#   docker build -t triton-vllm:{version()} .                       on the newest server, {tags()[-1]}\n"
            f"#   docker build --target server-{tags()[0]} -t triton-vllm:{version()}-{tags()[0].split('-')[0]} .\n"
            "#   docker build --target library -t triton-vllm-library .          to COPY --from it\n\n"
            f"FROM scratch AS library\nCOPY rootfs/{BACKEND}/ /\n\n{server}")


def image(library, out):
    """The tree that every image gets, and its Dockerfile."""
    backend = out / "rootfs" / BACKEND
    backend.mkdir(parents=True)
    shutil.copy2(library, backend / NAME)
    shutil.copy2(ROOT / "LICENSE", backend / "LICENSE.libtriton_vllm")
    shutil.copytree(ROOT / "model_repository", out / "rootfs/opt/tritonserver/samples/vllm")
    (out / "Dockerfile").write_text(dockerfile())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path, required=True, help="the library as cargo built it")
    parser.add_argument("--out", type=Path, required=True, help="folder that is emptied and filled")
    args = parser.parse_args()
    for tool in ("objcopy", "cargo", "git"):
        if shutil.which(tool) is None:
            sys.exit(f"{tool} is not found (objcopy belongs to Debian's package binutils)")
    out = args.out
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    library = out / NAME
    strip(args.library, library)
    short, seconds = commit()
    facts = {"version": version(), "commit": short, "sha256": sha256(library.read_bytes()),
             "glibc": "{}.{}".format(*glibc_needed(library))}

    (out / "sbom.cdx.json").write_text(json.dumps(sbom(library, seconds), indent=1) + "\n")
    package = wheel(library, out, facts, seconds)
    image(library, out / "image")
    for path in BESIDE:
        shutil.copy2(ROOT / path, out)
    (out / "VERSION").write_text(f"libtriton_vllm {version()}, commit {short}, {run('rustc', '--version')}")
    files = sorted(p for p in out.rglob("*") if p.is_file())
    sums = [f"{sha256(p.read_bytes())}  {p.relative_to(out)}\n" for p in files]
    (out / "SHA256SUMS").write_text("".join(sums))

    mb = lambda p: f"{p.stat().st_size / 1e6:.1f} MB"
    print((out / "VERSION").read_text(), end="")
    print(f"{out}: {NAME} {mb(library)} ({mb(args.library)} with symbols), needs glibc {facts['glibc']}; "
          f"{package.name} {mb(package)}; {len(files) + 1} files in SHA256SUMS")


if __name__ == "__main__":
    main()
