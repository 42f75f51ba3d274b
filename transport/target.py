"""The HOST argument: `[user@]host[:port]`, as ssh and scp write it."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from transport.errors import BadTarget

# What is allowed, not what is forbidden: host and user travel into ssh_config tokens, ProxyCommand
# and messages, so nothing that a shell or a terminal reads as more than a letter may get in. A
# leading '-' would be an option to whatever program the name is given to.
_NAME = re.compile(r"[\w.+][\w.+-]*")
_USER = re.compile(r"[\w.+][\w.+@-]*")
_ZONE = re.compile(r"[\w.-]+")
_PORT = re.compile(r"[0-9]{1,5}")
_MAX_PORT = 65535
SSH_PORT = 22


@dataclass(frozen=True)
class Target:
    """Where to connect: a host name, an address or an alias of ssh_config, as a person wrote it.

    `user` and `port` are None when they were not written; ssh_config decides then.
    """

    host: str
    user: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        """The text that `parse_target` reads back into the same target."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        user = "" if self.user is None else f"{self.user}@"
        port = "" if self.port is None else f":{self.port}"
        return f"{user}{host}{port}"


def same_host(one: str, other: str) -> bool:
    """Whether two HOST arguments name one host: the same name and port, whoever logs in there.

    No port is 22. Texts that cannot be read as HOST are the same only when they are equal.
    """
    try:
        first, second = parse_target(one), parse_target(other)
    except BadTarget:
        return one == other
    return (first.host.lower(), first.port or SSH_PORT) == (
        second.host.lower(), second.port or SSH_PORT,
    )  # fmt: skip


def parse_target(text: str) -> Target:
    """Read `[user@]host[:port]`; an IPv6 address stands in brackets, or bare without a port.

    Raises `BadTarget` for anything else: empty parts, a leading '-', characters that a shell could
    read, a port outside 1-65535.
    """
    before, at, rest = text.rpartition("@")
    user = before if at else None
    if user is not None and not _USER.fullmatch(user):
        raise BadTarget(f"{text!r} has no usable user name before the '@'")
    host, port_text = _split_port(text, rest)
    if not (_is_ipv6(host) if ":" in host else _NAME.fullmatch(host)):
        raise BadTarget(f"{text!r} does not name a host")
    if port_text is None:
        return Target(host, user, None)
    if not _PORT.fullmatch(port_text) or not 1 <= int(port_text) <= _MAX_PORT:
        raise BadTarget(f"{text!r} has a port that is not a number from 1 to {_MAX_PORT}")
    return Target(host, user, int(port_text))


def _split_port(text: str, rest: str) -> tuple[str, str | None]:
    """Host without brackets, and what follows its ':' (None: there is no ':')."""
    if rest.startswith("["):
        host, bracket, after = rest[1:].partition("]")
        if not bracket or (after and not after.startswith(":")):
            raise BadTarget(f"{text!r} has a '[' that is not closed before the port")
        return host, after[1:] if after else None
    if rest.count(":") > 1:  # a bare IPv6 address: which ':' would be the port's is anyone's guess
        return rest, None
    host, colon, port = rest.partition(":")
    return host, port if colon else None


def _is_ipv6(host: str) -> bool:
    address, percent, zone = host.partition("%")
    if percent and not _ZONE.fullmatch(zone):
        return False
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        return False
    return True
