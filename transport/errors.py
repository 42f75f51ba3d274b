"""What can go wrong on the way between two hosts.

Every failure says what failed (`message`), what to do (`remedy`) and has an exit code of its own
(`exit_code`); `migrate.errors` goes on from the same base.
"""

from __future__ import annotations


class Failure(Exception):
    """A failure a person can act on: one sentence, a remedy, an exit code.

    `message`: what failed and why, one sentence without a final stop.
    `remedy`: what to do about it, one sentence or empty.
    """

    exit_code = 1
    default_remedy = ""

    def __init__(self, message: str, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = self.default_remedy if remedy is None else remedy
        self.reported = False
        """Whether the other host has reported it, and so knows of it."""
        self.remote_log = ""
        """What the other host's logs say about it."""
        self.logs = ""
        """Where the logs are kept on this host, a path or empty."""

    @property
    def code(self) -> str:
        """The name of the failure in `--json` output, such as `HostUnreachable`."""
        return type(self).__name__


class BadTarget(Failure):
    """The HOST argument cannot be read as `[user@]host[:port]`."""

    exit_code = 2
    default_remedy = "write the host as [user@]host[:port], or use an alias of ~/.ssh/config"


class HostUnreachable(Failure):
    """The name does not resolve, or nothing answers there."""

    exit_code = 20
    default_remedy = "check the name, the port and that sshd runs there"


class HostKeyRejected(Failure):
    """The host's key is unknown, or is not the one in known_hosts."""

    exit_code = 21
    default_remedy = "compare the key with the host's own, then record it with ssh-keyscan or ssh"


class AuthenticationFailed(Failure):
    """The host did not accept any key that we have."""

    exit_code = 22
    default_remedy = "add your public key to the host's authorized_keys, or name the user"


class ConnectionLost(Failure):
    """The connection ended, or the other side died, while it was needed."""

    exit_code = 51
    default_remedy = "check the network and the other host, then try again"


class StreamCorrupt(Failure):
    """What came over the wire is not what was sent, or is not ours."""

    exit_code = 52
    default_remedy = "check that both hosts run the same version of migrate"
