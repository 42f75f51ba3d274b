#!/bin/sh
# Make a Debian (12 or later) or Ubuntu (22.04 or later) host ready for migrate. Run as root, as
# often as you like.
#
#   install.sh [--no-setup] [WHEEL | SOURCE_DIR]   default: the directory this script lies in
#   install.sh --uninstall
#
# PREFIX=/opt/migrate is where the virtual environment goes. It sees the system's packages, since
# pycriu exists only there. Docker is not installed by this script: which one is your decision.
# With all packages in place nothing is fetched: no apt, and pip only with --no-index.
set -eu

PREFIX=${PREFIX:-/opt/migrate}
BIN=/usr/local/bin
STATE=/var/lib/migrate
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
# python3-msgspec is seen to separately: Debian 12 does not have it, PyPI does.
PACKAGES="criu python3-pycriu python3-venv python3-paramiko python3-docker python3-zstandard
python3-tqdm python3-xxhash python3-prometheus-client nftables iptables iproute2 conntrack"

say() { printf 'install.sh: %s\n' "$*"; }
die() {
    printf 'install.sh: %s\n' "$*" >&2
    exit 30 # HostUnfit, see migrate/errors.py
}

installed() {
    [ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null | cut -c1-2)" = ii ]
}

apt_install() {
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
}

# apt is called only when something is missing: a host without network must do.
need() {
    missing=
    for package in "$@"; do
        installed "$package" || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    say "installing$missing"
    # shellcheck disable=SC2086 # a list of words
    apt_install $missing && return 0
    # The lists may be missing or old.
    # shellcheck disable=SC2086
    apt-get update && apt_install $missing && return 0
    die "cannot install$missing; what this release does not have (Debian 12 has no" \
        "python3-pycriu) take from Debian testing"
}

need_msgspec() {
    "$PREFIX/bin/python" -c 'import msgspec' 2>/dev/null && return 0
    apt_install python3-msgspec && return 0
    say "this release has no python3-msgspec: taking it from PyPI"
    "$PREFIX/bin/python" -m pip install --quiet --disable-pip-version-check 'msgspec>=0.18' ||
        die "cannot install msgspec from PyPI either"
}

# Same rule as migrate/host_findings.py: a criu before 4.2 cannot dump sockets on Linux >= 6.16.
check_criu() {
    kernel=$(uname -r)
    version=$(criu --version | sed -n 's/^Version: *//p')
    if dpkg --compare-versions "${kernel%%-*}" ge 6.16 &&
        dpkg --compare-versions "$version" lt 4.2; then
        say "criu $version cannot dump network sockets on Linux $kernel (Linux >= 6.16 needs" \
            "criu >= 4.2): take criu, libcompel1, libnet9 and python3-pycriu from Debian testing"
    elif dpkg --compare-versions "$version" lt 3.17; then
        say "criu $version is too old: 3.17 or later is needed"
    fi
}

link() {
    target=$PREFIX/bin/$1
    if [ -e "$BIN/$1" ] && [ ! -L "$BIN/$1" ]; then
        die "$BIN/$1 is there and not a link of ours; take it away first"
    fi
    mkdir -p "$BIN"
    [ "$(readlink "$BIN/$1" || true)" = "$target" ] || ln -sfn "$target" "$BIN/$1"
}

unlink_ours() {
    if [ "$(readlink "$BIN/$1" || true)" = "$PREFIX/bin/$1" ]; then rm -f "$BIN/$1"; fi
}

install_python() {
    # A venv of another Python (after an upgrade of the release) is of no use.
    if ! "$PREFIX/bin/python" -c 'import pip' 2>/dev/null; then
        [ ! -e "$PREFIX" ] || [ -e "$PREFIX/pyvenv.cfg" ] ||
            die "$PREFIX is there and not a virtual environment; take it away or set PREFIX"
        /usr/bin/python3 -m venv --clear --system-site-packages "$PREFIX"
    fi
    set -- "$PREFIX/bin/python" -m pip install --quiet --disable-pip-version-check \
        --no-index --no-deps --no-cache-dir --force-reinstall
    if [ -d "$source" ]; then
        need python3-hatchling
        # pip builds in a copy: the source may be read-only, and stays as it is.
        build=$(mktemp -d)
        trap 'rm -rf "$build"' EXIT
        cp -R "$source/pyproject.toml" "$source/migrate" "$source/transport" "$source/bin" "$build"
        for file in README.md LICENSE; do
            [ ! -e "$source/$file" ] || cp "$source/$file" "$build"
        done
        "$@" --no-build-isolation "$build"
    else
        "$@" "$source"
    fi
}

uninstall() {
    if [ -x "$PREFIX/bin/migrate" ]; then
        "$PREFIX/bin/migrate" setup --undo || {
            code=$?
            say "nothing was removed" >&2
            exit "$code"
        }
    fi
    unlink_ours migrate
    unlink_ours migrate-runc
    if [ -e "$PREFIX/pyvenv.cfg" ]; then rm -rf "$PREFIX"; fi
    rm -rf /run/migrate
    rm -f "$STATE/criu-probe.json"
    rmdir "$STATE/journal" "$STATE" 2>/dev/null || true
    if [ -e "$STATE" ]; then say "$STATE still has something in it and was left"; fi
    say "removed; the packages were left"
}

setup=yes
uninstall=no
source=
for argument in "$@"; do
    case $argument in
    --no-setup) setup=no ;;
    --uninstall) uninstall=yes ;;
    -h | --help)
        sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"
        exit 0
        ;;
    -*)
        say "unknown option $argument; see install.sh --help" >&2
        exit 2
        ;;
    *) source=$argument ;;
    esac
done
[ "$(id -u)" = 0 ] || die "run this as root"
command -v dpkg-query >/dev/null || die "this is not a Debian or Ubuntu host"
if [ "$uninstall" = yes ]; then
    uninstall
    exit 0
fi
source=${source:-$(cd "$(dirname "$0")" && pwd)}
if [ -d "$source" ]; then
    [ -e "$source/pyproject.toml" ] || die "$source is not the source of migrate"
elif [ ! -f "$source" ]; then
    die "$source is not there"
fi

# shellcheck disable=SC2086 # a list of words
need $PACKAGES
check_criu
install_python
need_msgspec
link migrate
link migrate-runc
say "installed $("$PREFIX/bin/python" -c 'import migrate; print(migrate.__version__)') in $PREFIX"
if ! command -v dockerd >/dev/null; then
    say "Docker is not installed here: install it (docker.io or docker-ce), then \`migrate setup\`"
elif [ "$setup" = yes ]; then
    "$BIN/migrate" setup
fi
