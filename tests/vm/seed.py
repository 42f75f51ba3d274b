"""The second disk of a machine, a tar that it unpacks when it boots: names, keys, and the tool.

A disk, since it is read at once, where SSH into an emulated machine takes its time.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

# With the usual one of 1500 bytes, SSH between two emulated machines manages 6 MB/s, with this 14.
MTU = 65000

NETWORK = """\
set -e
ip link set lo up
ip address add 10.0.2.15/24 dev eth0
ip link set eth0 up
ip link set eth1 mtu {mtu}
ip address add {address}/24 dev eth1
ip link set eth1 up
echo 1 > /proc/sys/net/ipv4/ip_forward
"""
CLIENT = """\
ip netns add client
ip link set eth2 netns client
ip -n client link set lo up
ip -n client link set eth2 mtu {mtu}
ip -n client address add {address}/24 dev eth2
ip -n client link set eth2 up
"""


def network_script(address: str, client: str | None) -> str:
    """What brings the cards up; `client`: the address of the client beside this machine."""
    script = NETWORK.format(mtu=MTU, address=address)
    return script + CLIENT.format(mtu=MTU, address=client) if client else script


def write_seed(target: Path, files: Iterable[tuple[str, str, int]], tool: Path) -> None:
    """`files`: path, text, mode; `tool`: the directory that install.sh has filled."""
    with tarfile.open(target, "w") as tar:
        tar.add(tool, ".", recursive=False)
        for entry in sorted(tool.iterdir()):
            tar.add(entry, entry.name)
        for path, text, mode in files:
            member = tarfile.TarInfo(path.lstrip("/"))
            member.mode = mode
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
