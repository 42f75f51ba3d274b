"""What a checkpoint says of itself: read with pycriu from CRIU's images (criu/images/*.proto)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any


def needs_network(images: Path) -> bool:
    """Whether a socket can only be restored when the container has its addresses and interfaces.

    When in doubt, it does: an image that cannot be read, a kind of socket that is not known.
    """
    try:
        import pycriu

        with (images / "files.img").open("rb") as file:
            entries = pycriu.images.load(file)["entries"]
        return any(needs_address(entry) for entry in entries)
    except Exception:  # noqa: BLE001 - pycriu raises what it likes; the answer is then the safe one
        return True


def needs_address(entry: Mapping[str, Any]) -> bool:
    """Whether this entry of files.img (fdinfo.proto, file_entry) is such a socket.

    An inet socket is, when it is bound to an address that is neither any nor loopback (an
    established connection always is), or to an interface; so is every packet socket.
    """
    if entry.get("type") == "PACKETSK":
        return True
    inet = entry.get("isk")
    if not inet:
        return False
    return bool(inet.get("ifname")) or not _local(inet.get("src_addr") or ())


def _local(addresses: Iterable[str]) -> bool:
    """Whether all of these are "any" or loopback. pycriu gives a socket's address as one text."""
    found = [ip_address(text) for text in addresses]
    return all(address.is_unspecified or address.is_loopback for address in found)
