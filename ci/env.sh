# Sourced by the scripts in ci/: where things are.
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="$root/target/venv/bin/python"
