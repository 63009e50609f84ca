#!/usr/bin/env bash
# Make the virtual environment VENV with PYTHON, if it is not there, and install edged[EXTRA] into
# it, editable, pinned by constraints.txt.      Usage: tools/install.sh PYTHON VENV EXTRA
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1 venv=$2 extra=$3
log=$venv/install-$extra.log

fail() {
    echo "edged: $*" >&2
    exit 1
}

if [ ! -x "$venv/bin/pip" ]; then
    command -v "$python" >/dev/null ||
        fail "there is no $python here: install Python 3.10 to 3.13, or name it: make PYTHON=..."
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    case $version in
    3.10 | 3.11 | 3.12 | 3.13) ;;
    *) fail "$python is Python $version, edged needs 3.10 to 3.13: name another, as: make PYTHON=python3.12" ;;
    esac
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        fail "$python cannot make virtual environments: apt-get install python$version-venv"
    echo "==> virtual environment $venv (Python $version)"
    "$python" -m venv "$venv"
fi

echo "==> packages of edged[$extra], pinned (pip's own words: $log)"
# pip builds edged itself with pinned packages too: older releases read the constraint from the
# first variable, newer ones from the second.
export PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK=1
if ! "$venv/bin/pip" install --progress-bar off --editable ".[$extra]" 2>&1 | tee "$log" |
    sed --unbuffered --quiet --regexp-extended \
        -e 's/^ *(Downloading|Using cached|Processing) (.*\/)?([^/-]+-[^/-]+)[^/]*\.(whl|tar\.gz)( \([0-9.]+ [kMG]?B\))?( .*)?$/    \3\5/p' \
        -e 's/^Installing collected packages.*/    installing/p'; then
    tail -n 20 "$log" >&2
    fail "the packages could not be installed, see above; is there a network?"
fi
