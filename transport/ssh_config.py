"""What ssh_config says of a host: paramiko parses the files, here they become typed answers."""

from __future__ import annotations

import getpass
import glob
import io
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import paramiko

from transport.errors import BadTarget
from transport.target import Target, parse_target

_SYSTEM_CONFIG = Path("/etc/ssh/ssh_config")
_SYSTEM_KNOWN_HOSTS = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
_USER_KNOWN_HOSTS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
_DEFAULT_IDENTITIES = ("id_rsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk")
_MAX_INCLUDES = 16
_KEYWORD = re.compile(r"\s*(\w+)(?:\s*=\s*|\s+)(.+?)\s*$")
_REMEDY = "correct the ssh config; `ssh -G HOST` shows how ssh reads it"


@dataclass(frozen=True)
class HostConfig:
    """All that is needed to connect to one host.

    `name` is what was asked for, `host` what to connect to. `agent` is the path of the agent's
    socket, None for no agent. `identities_only`: agent keys count only when they are also among
    `identities`. `jumps`: hosts to go through, the first one first; at most one of `jumps` and
    `proxy_command` is set. `accept_new`: an unknown host key is written down instead of refused.
    """

    name: str
    host: str
    user: str
    port: int
    identities: tuple[Path, ...]
    identities_only: bool
    agent: str | None
    jumps: tuple[Target, ...]
    proxy_command: str | None
    known_hosts: tuple[Path, ...]
    host_key_alias: str | None
    accept_new: bool
    hash_known_hosts: bool

    @property
    def address(self) -> str:
        """`host:port`, for messages."""
        return str(Target(self.host, None, self.port))


def resolve(target: Target, config_path: Path | None = None) -> HostConfig:
    """Look `target` up in `config_path`, or in ~/.ssh/config and /etc/ssh/ssh_config.

    What the target itself says goes first, as on ssh's command line. A default file may be
    missing, `config_path` may not. Raises `BadTarget` for files that cannot be read.
    """
    options = _Options(_lookup(target, config_path))
    host = options.text("hostname", target.host)
    jumps, command = _proxy(options, target, host)
    agent = options.text("identityagent", "SSH_AUTH_SOCK")
    strict = options.text("stricthostkeychecking", "ask").lower()
    known_hosts = (
        *options.paths("userknownhostsfile", _USER_KNOWN_HOSTS),
        *options.paths("globalknownhostsfile", _SYSTEM_KNOWN_HOSTS),
    )
    defaults = tuple(Path.home() / ".ssh" / name for name in _DEFAULT_IDENTITIES)
    return HostConfig(
        name=target.host,
        host=host,
        user=options.text("user", getpass.getuser()),
        port=options.port(),
        identities=options.identities() or defaults,
        identities_only=options.flag("identitiesonly"),
        agent=_agent_socket(agent),
        jumps=jumps,
        proxy_command=command,
        known_hosts=known_hosts,
        host_key_alias=options.get("hostkeyalias"),
        # `no` and `off` let a changed key in as well. Memory of a container is not sent to
        # whoever happens to answer, so here they mean what most who write them want: not to ask.
        accept_new=strict in ("accept-new", "no", "off"),
        hash_known_hosts=options.flag("hashknownhosts"),
    )


class _Options:
    """The options of one host, read as types."""

    def __init__(self, options: dict[str, str | list[str] | None]) -> None:
        self._options = options

    def get(self, key: str) -> str | None:
        value = self._options.get(key)
        return value if isinstance(value, str) else None

    def text(self, key: str, default: str) -> str:
        return self.get(key) or default

    def flag(self, key: str) -> bool:
        return self.text(key, "no").lower() in ("yes", "true")

    def port(self) -> int:
        text = self.text("port", "22")
        if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
            raise BadTarget(f"the ssh config has the port {text!r}", _REMEDY)
        return int(text)

    def paths(self, key: str, default: Sequence[str]) -> tuple[Path, ...]:
        value = self.get(key)
        try:
            words = default if value is None else shlex.split(value)
        except ValueError as error:
            raise BadTarget(f"the ssh config has {key} {value}: {error}", _REMEDY) from error
        return tuple(_expand(word) for word in words if word != "none")

    def identities(self) -> tuple[Path, ...]:
        value = self._options.get("identityfile")
        words = value if isinstance(value, list) else []
        return tuple(_expand(word) for word in words if word != "none")

    def first_of(self, *keys: str) -> str | None:
        """The key that the files set first; in ssh the first one of a pair of rivals wins."""
        return next((key for key in self._options if key in keys), None)


def _proxy(options: _Options, target: Target, host: str) -> tuple[tuple[Target, ...], str | None]:
    first = options.first_of("proxyjump", "proxycommand")
    value = None if first is None else options.get(first)
    if value is None or value.lower() == "none":
        return (), None
    if first == "proxycommand":
        return (), value
    jumps = tuple(parse_target(hop.strip().removeprefix("ssh://")) for hop in value.split(","))
    return (() if _is_itself(jumps[-1], target.host, host, options.port()) else jumps), None


def _is_itself(jump: Target, name: str, host: str, port: int) -> bool:
    """`Host *` with a ProxyJump is true for the jump host too, which must not jump to itself."""
    if jump.host == name:
        return jump.port in (None, port)
    return (jump.host, jump.port or 22) == (host, port)


def _agent_socket(value: str) -> str | None:
    if value == "none":
        return None
    if value == "SSH_AUTH_SOCK":
        return os.environ.get("SSH_AUTH_SOCK")
    if value.startswith("$"):
        return os.environ.get(value[1:].strip("{}"))
    return str(_expand(value))


def _expand(word: str) -> Path:
    home = str(Path.home())
    return Path(word.replace("%d", home).replace("%%", "%")).expanduser()


def _lookup(target: Target, config_path: Path | None) -> dict[str, str | list[str] | None]:
    config = paramiko.SSHConfig()
    user_config = Path.home() / ".ssh" / "config"
    paths = (user_config, _SYSTEM_CONFIG) if config_path is None else (config_path,)
    try:
        # The first value wins, so this is the command line; %p and %r see it too.
        explicit = {"User": target.user, "Port": target.port}
        config.parse(io.StringIO("".join(f"{k} {v}\n" for k, v in explicit.items() if v)))
        for path in paths:
            if config_path is None and not path.is_file():
                continue
            base = path.parent if path == _SYSTEM_CONFIG else user_config.parent
            config.parse(io.StringIO("\n".join(_lines(path, base))))
        return dict(config.lookup(target.host))
    except OSError as error:
        raise BadTarget(f"the ssh config cannot be read: {error}", _REMEDY) from error
    # KeyError, ValueError: paramiko on half-written canonicalisation options. ImportError: `Match
    # exec` needs invoke, which Debian leaves out.
    except (paramiko.SSHException, KeyError, ValueError, ImportError) as error:
        raise BadTarget(f"the ssh config cannot be used: {error}", _REMEDY) from error


def config_lines(path: Path) -> list[str]:
    """The lines of a user's config, with its Includes put in place; [] where there is no file.

    Raises `BadTarget` when it cannot be read.
    """
    try:
        return list(_lines(path, path.parent)) if path.is_file() else []
    except (OSError, ValueError) as error:
        raise BadTarget(f"the ssh config cannot be read: {error}", _REMEDY) from error


def _lines(path: Path, base: Path, depth: int = 0) -> Iterator[str]:
    """The lines of a file with its Includes (which paramiko does not know) put in place."""
    if depth > _MAX_INCLUDES:
        raise ValueError(f"{path}: Includes are nested more than {_MAX_INCLUDES} deep")
    block = "Host *"
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        found = _KEYWORD.match(line)
        keyword = found.group(1).lower() if found else ""
        if found is None or keyword != "include":
            if keyword in ("host", "match"):
                block = line
            yield line
            continue
        for word in shlex.split(found.group(2)):
            # Paths are relative to ~/.ssh or /etc/ssh; joining an absolute one gives itself.
            for name in sorted(glob.glob(str(base / Path(word).expanduser()))):
                yield from _lines(Path(name), base, depth + 1)
        yield block  # a Host of the included file ends with it
