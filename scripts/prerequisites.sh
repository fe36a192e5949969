#!/usr/bin/env bash
# Say, in one line, what this machine lacks to build and run: exit 0 and silence where it lacks nothing.
# usage: prerequisites.sh PYTHON [extra tools, such as make]
set -euo pipefail

python=${1:?usage: prerequisites.sh PYTHON [TOOL...]}
shift

# Debian names the packages of its own Python python3-*, and those of another one python3.N-*.
package=$(basename -- "$python")
[[ $package =~ ^python3(\.[0-9]+)?$ ]] || package=python3

missing=()
for tool in "$@"; do
    command -v -- "$tool" >/dev/null || missing+=("$tool")
done
read -ra compiler <<<"${CXX:-c++}" # may be "ccache g++"
command -v -- "${compiler[0]}" >/dev/null || missing+=(g++)

if ! command -v -- "$python" >/dev/null; then
    missing+=("$package" "$package-venv" "$package-dev")
elif ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    echo "$("$python" --version) is too old: Python 3.10 or newer is needed; name one with: make PYTHON=python3.12" >&2
    exit 1
else
    "$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=("$package-venv")
    header=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h
    [[ -e $header ]] || missing+=("$package-dev")
fi

if ((${#missing[@]})); then
    echo "this machine lacks what the build needs; install it with: sudo apt-get install -y ${missing[*]}" >&2
    exit 1
fi
