"""The command `triton-vllm`: install, uninstall and check libtriton_vllm.so in a tritonserver."""
import argparse
import sys
from pathlib import Path

from . import facts
from .files import Failed, install, installed, uninstall
from .machine import MISSING, check

BACKENDS = "/opt/tritonserver/backends"


def report(backends):
    """Prints what was found; whether nothing is missing."""
    findings = check(backends)
    for subject, level, text in findings:
        print(f"{level:8} {subject:12} {text}")
    missing = [subject for subject, level, _ in findings if level == MISSING]
    print(f"missing: {', '.join(missing)}" if missing else "nothing is missing")
    return not missing


def run(arguments):
    backends = arguments.backends.absolute()
    if arguments.command == "check":
        return report(backends)

    if arguments.command == "uninstall":
        uninstall(backends)
        python = (backends / "vllm" / "model.py").exists()
        print(f"removed {installed(backends)}. After a restart of the server "
              + ("the Python backend beside it serves again." if python else "no backend \"vllm\" is there."))
        return True

    done = install(backends)
    print(f"{done}: {installed(backends)}. A running server must be restarted to use it.\n")
    report(backends)
    return True


def main(argv=None):
    known = facts()
    parser = argparse.ArgumentParser(prog="triton-vllm", description=__doc__)
    parser.add_argument("--version", action="version", version=f"triton-vllm {known['version']} ({known['commit']})")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in [
            ("install", "copy the library into the backends folder, and check"),
            ("uninstall", "take it out again; a model.py beside it stays and serves again"),
            ("check", "say what is missing on this machine; exit code 1 if something is")]:
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--backends", type=Path, default=Path(BACKENDS), metavar="FOLDER",
                             help=f"the server's backends folder (default: {BACKENDS}); the file goes into FOLDER/vllm")
    arguments = parser.parse_args(argv)
    try:
        return 0 if run(arguments) else 1
    except Failed as failed:
        print(f"triton-vllm: {failed}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
