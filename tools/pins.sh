#!/usr/bin/env bash
# Resolve pyproject.toml anew and rewrite constraints.txt: one pin for each package, with a marker
# where Python 3.10 to 3.13 need different ones.      Usage: tools/pins.sh (or `make pins`)
#
# torch is held where the accelerator builds stand. Its CUDA packages stay out: torch's own
# metadata pins them, and a CPU build of torch wants none.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet uv

echo "torch==2.13.0" >"$work/hold.txt"
printf '%s\n' hatchling editables >"$work/build.txt" # pip builds the editable install with these
"$work/venv/bin/uv" pip compile --quiet --universal --python-version 3.10 --all-extras \
    --no-header --no-annotate --constraint "$work/hold.txt" \
    pyproject.toml "$work/build.txt" >"$work/all.txt"

{
    echo "# Every dependency of every extra, pinned, for Linux and CPython 3.10 to 3.13."
    echo "# Written by tools/pins.sh; used by the Makefile as pip's --constraint."
    grep -vE "^(nvidia-|cuda-|triton=)|== '(win32|emscripten|pypy)'" "$work/all.txt" |
        sed -E "s/ (and|;) (sys_platform|platform_python_implementation) != '(emscripten|PyPy)'//
                s/ ; platform_machine == .*//"
} >"$work/constraints.txt"
mv "$work/constraints.txt" constraints.txt
echo "constraints.txt: $(grep -c == constraints.txt) pins"
