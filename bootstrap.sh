#!/bin/sh
# Make this machine (Debian 12 or later, root) able to run ./demo and ./test: Debian packages for the
# lab, and the virtual environment .venv. Quick when all is there; safe to run again, or by itself.
#   ./bootstrap.sh [vm] [web]  vm: also QEMU, for the virtual machines of tests/vm
#                              web: also Chromium, for the test of the demo's page
# This is for whoever tries the project out or works on it; hosts get ready by install.sh.
set -eu
cd "$(dirname "$0")"
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# mmdebstrap and the keyring build the lab's hosts, the next ones run them; the archivers are what
# mmdebstrap and dpkg-deb (examples/quake/build_image.py) unpack with.
PACKAGES="mmdebstrap debian-archive-keyring iproute2 nftables iptables openssh-client util-linux
util-linux mount procps xz-utils zstd tar busybox-static ca-certificates"
VM_PACKAGES="qemu-system-x86 qemu-utils e2fsprogs"
WEB_PACKAGES="chromium chromium-driver"

for kind; do
    case $kind in
    vm) PACKAGES="$PACKAGES $VM_PACKAGES" ;;
    web) PACKAGES="$PACKAGES $WEB_PACKAGES" ;;
    *)
        sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" >&2
        exit 2
        ;;
    esac
done

say() { printf 'bootstrap: %s\n' "$*" >&2; }
die() {
    say "$*"
    exit 30
}

apt_install() {
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >/dev/null
}

# The lists may be old.
need() {
    say "installing $*"
    apt_install "$@" || { apt-get update -qq >/dev/null && apt_install "$@"; } || die "apt cannot install $*"
}

# A Python of 3.11 or later that can make a virtual environment (Debian splits that off).
find_python() {
    for python in python3 /usr/bin/python3 python3.14 python3.13 python3.12 python3.11; do
        "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
            2>/dev/null && return 0
    done
    return 1
}

[ "$(id -u)" = 0 ] || die "this needs root, for packages and for the lab's namespaces"
command -v apt-get >/dev/null && command -v dpkg-query >/dev/null ||
    die "this needs apt: a Debian 12 or later, or an Ubuntu 24.04 or later"

# First: the demo's image is made from packages that are downloaded, not installed: apt must know them,
# also when none is missing.
if ! ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1; then
    say "fetching apt's package lists"
    apt-get update -qq >/dev/null || die "apt cannot fetch its package lists"
fi

missing=
there=$(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' | sed -n 's/^ii *//p')
for package in $PACKAGES; do
    echo "$there" | grep -qx "$package" || missing="$missing $package"
done
# shellcheck disable=SC2086 # a list of words
[ -z "$missing" ] || need $missing

find_python || { need python3 python3-venv && find_python; } ||
    die "no Python of 3.11 or later with venv here, and apt has none"
stamp="$("$python" -c 'import sys; print(sys.version, sys.base_prefix)') $(pwd)
$(sha256sum pyproject.toml)"
if [ "$stamp" != "$(cat .venv/.bootstrap 2>/dev/null)" ]; then
    say "making .venv"
    "$python" -m venv --clear .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[test,demo]' >&2 ||
        die "pip cannot install what pyproject.toml names"
    printf '%s\n' "$stamp" >.venv/.bootstrap
fi
