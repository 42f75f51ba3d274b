#!/bin/sh
# Make a Debian 13 machine one of those that a container moves between: Docker, the tool, names and
# SSH keys. For the Vagrantfile, but it works anywhere. Run as root, as often as you like.
#
#   provision.sh [--quake] NAME=ADDRESS... KEYS [WHEEL]
#
# NAME=ADDRESS: the machines, this one too (its host name is one of the names). KEYS: a directory
# with key pairs as ssh-keygen makes them: NAME, the host key of each machine; root, with which root
# logs in from one to the other. It is removed. --quake: a Quake 3 server is started here, unless it
# is or has moved away. WHEEL: the tool, when it is not to be built from the checkout.
set -eu
cd "$(dirname "$0")/../.."

SUBNET=10.88.0.0/24 # a network with a subnet of its own: there the server can keep its address

say() { printf 'provision.sh: %s\n' "$*"; }

usage() {
    sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" >&2
    exit 2
}

quake=no
hosts=
while [ $# -gt 0 ]; do
    case $1 in
    --quake) quake=yes ;;
    *=*) hosts="$hosts $1" ;;
    *) break ;;
    esac
    shift
done
{ [ $# -ge 1 ] && [ -n "$hosts" ]; } || usage
keys=$1
wheel=${2-}
me=$(hostname -s)
[ -r "$keys/$me" ] || {
    say "$keys has no key of this host, $me" >&2
    exit 2
}

lower() { printf '%s' "$1" | tr '[:upper:]' '[:lower:]'; }

# Written through, not renamed: the file may be a mount.
names() {
    others=$(grep -v '# migrate$' /etc/hosts || true)
    {
        printf '%s\n' "$others"
        for host in $hosts; do echo "${host#*=} ${host%%=*} # migrate"; done
    } >/etc/hosts
}

ssh_keys() {
    install -d -m 700 /root/.ssh
    install -m 600 "$keys/root" /root/.ssh/id_ed25519
    install -m 644 "$keys/root.pub" /root/.ssh/id_ed25519.pub
    grep -qxF "$(cat "$keys/root.pub")" /root/.ssh/authorized_keys 2>/dev/null ||
        cat "$keys/root.pub" >>/root/.ssh/authorized_keys
    for host in $hosts; do
        name=${host%%=*}
        echo "$(lower "$name"),${host#*=} $(cut -d' ' -f1,2 "$keys/$name.pub")"
    done >/root/.ssh/known_hosts
    # Only the key that the others know: a client that prefers another type would refuse that.
    rm -f /etc/ssh/ssh_host_*
    install -m 600 "$keys/$me" /etc/ssh/ssh_host_ed25519_key
    install -m 644 "$keys/$me.pub" /etc/ssh/ssh_host_ed25519_key.pub
    service ssh reload
}

packages() {
    if ! ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1; then apt-get -qq update; fi
    command -v dockerd >/dev/null && return 0
    # apparmor: where the kernel has it, Docker wants its parser.
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
        docker.io docker-cli apparmor
}

# No remote console: whoever knows its password owns the server.
start_quake() {
    if docker container inspect quake >/dev/null 2>&1 ||
        migrate forward list | grep -qw quake; then
        return 0
    fi
    python=/opt/migrate/bin/python
    tar=$(mktemp)
    "$python" -m examples.quake.build_image "$tar" >/dev/null
    docker import --change "CMD $("$python" -c '
import json
from examples.quake.build_image import command
print(json.dumps(command(rcon_password="")))')" "$tar" quake >/dev/null
    rm "$tar"
    docker network inspect arena >/dev/null 2>&1 ||
        docker network create --subnet "$SUBNET" arena >/dev/null
    docker run -d --name quake --network arena -p 27960:27960/udp quake >/dev/null
    say "container quake runs, UDP port 27960"
}

trap 'rm -rf "$keys"' EXIT # also when something fails
names
ssh_keys
packages
if [ -n "$wheel" ]; then ./install.sh "$wheel"; else ./install.sh; fi
if [ "$quake" = yes ]; then start_quake; fi
say "$me is ready"
