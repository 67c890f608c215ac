# Sourced by bench/run and tests/run: makes .venv with pyuffd built in place, and what a bare Debian or Ubuntu lacks for it.
# Everything is skipped that is there already and still fits, so that a second run is quick.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

# Debian's names of the packages that are missing. "$@": those that this run needs besides the compiler and Python.
missing_packages() {
    local package
    python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
        echo python3 python3-venv
    python3 -c 'import os, sysconfig, sys
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' 2>/dev/null || echo python3-dev
    echo '#if __GNUC__ < 12
#error
#endif' | g++ -x c++ -fsyntax-only - 2>/dev/null || echo g++
    for package in "$@"; do
        dpkg -s "$package" >/dev/null 2>&1 || echo "$package"
    done
}

install_packages() {
    local missing
    missing=$(missing_packages "$@" | tr '\n' ' ')
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "installing: $missing"
        apt-get update -qq
        # shellcheck disable=SC2086  # a list of words
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
        missing=$(missing_packages "$@" | tr '\n' ' ')
        [ -n "$missing" ] || return 0
        echo "this system's packages are too old or do not suffice: $missing(needed: Python 3.10, GCC 12)" >&2
    else
        echo "missing: install them with 'apt-get install $missing' (as root), then run this again" >&2
    fi
    return 1
}

# Those of these packages that can be had; what needs the others says so.
install_what_can_be_had() {
    local package
    for package in "$@"; do
        install_packages "$package" >/dev/null 2>&1 || echo "not installed: $package"
    done
}

# What the build is made from.
build_stamp() {
    {
        python3 -c 'import sys; print(sys.version, sys.executable)'
        echo "$root"
        find csrc setup.py pyproject.toml CMakeLists.txt pyuffd/_version.py pyuffd/_core.pyi -type f -print0 | sort -z | xargs -0 cat
    } | sha256sum
}

# An editable install with these extras, when sources or tools changed since the last.
install_pyuffd() {
    local extras=$1 stamp
    stamp=$(build_stamp)
    if [ "$stamp" != "$(cat ".venv/pyuffd-stamp-$extras" 2>/dev/null)" ] || ! .venv/bin/python -c 'import pyuffd' 2>/dev/null; then
        echo "building pyuffd"
        [ -x .venv/bin/python ] || python3 -m venv .venv
        .venv/bin/python -m pip install -q -e ".[$extras]"
        echo "$stamp" >".venv/pyuffd-stamp-$extras"
    fi
    export PATH="$root/.venv/bin:$PATH" VIRTUAL_ENV="$root/.venv"
}
