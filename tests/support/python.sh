#!/bin/sh
# Makes a virtual environment at $1 with the first Python from 3.11 on that can; installs Debian's package where none
# can and this may.
set -eu
make_venv() {
    for python in python3.14 python3.13 python3.12 python3.11 python3; do
        command -v "$python" >/dev/null 2>&1 || continue
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
        "$python" -m venv "$1" >/dev/null 2>&1 && "$1/bin/python" -m pip --version >/dev/null 2>&1 && return 0
        rm -rf "$1"
    done
    return 1
}
make_venv "$1" && exit 0
as_root=""
[ "$(id -u)" = 0 ] || as_root="sudo -n"
if command -v apt-get >/dev/null 2>&1 && { [ -z "$as_root" ] || sudo -n true 2>/dev/null; }; then
    echo "installing python3-venv" >&2
    $as_root apt-get update -qq >/dev/null && $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null
    make_venv "$1" && exit 0
fi
echo "no Python from 3.11 on can make a virtual environment here; on Debian: apt-get install python3-venv" >&2
exit 1
