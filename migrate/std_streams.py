"""The standard streams of a container: the pipes that its containerd shim holds the other ends of.

`runc restore` wants the links of init's first three descriptors (`descriptors.json`) and connects
the pipes among them to the new container's streams (libcontainer/criu_linux.go, Restore). A look at
the descriptors is not enough: a shell that runs `read x < file` has the file as descriptor 0 for a
moment, and the pipe elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass

from migrate.proc_text import stat_fields

LOOKS = 100
PAUSE = 0.002  # seconds between looks; a shell's redirection lasts microseconds


@dataclass(frozen=True)
class Streams:
    """`links`: of the descriptors 0, 1, 2; `shim`: all pipes of the shim."""

    links: list[str]
    shim: frozenset[str]

    def lost(self, pid: int) -> str:
        """A pipe to the shim that is one of the three descriptors now and is not in `links`."""
        for link in links_of(pid):
            if link in self.shim and link not in self.links:
                return link
        return ""


def links_of(pid: int) -> list[str]:
    """What the first three descriptors of a process are links to; a closed one is /dev/null."""
    links = []
    for fd in range(3):
        try:
            links.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except FileNotFoundError:
            links.append("/dev/null")
    return links


def find_streams(pid: int, shim: int) -> Streams:
    """The standard streams of a container's init, whatever it does with them at the moment.

    `shim`: its parent process. What is neither a pipe of the shim's nor /dev/null is looked at
    again for a while; what it is then is of no concern to runc.
    """
    pipes = pipes_of(shim)
    chosen = links_of(pid)
    for _ in range(LOOKS):
        if all(link in pipes or link == "/dev/null" for link in chosen):
            break
        time.sleep(PAUSE)
        for fd, link in enumerate(links_of(pid)):
            if (link in pipes and link not in chosen) or (
                link == "/dev/null" and chosen[fd] not in pipes
            ):
                chosen[fd] = link
    return Streams(chosen, pipes)


def pipes_of(pid: int) -> frozenset[str]:
    """The pipes that a process has open."""
    found = set()
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                link = os.readlink(entry.path)
                if link.startswith("pipe:"):
                    found.add(link)
    return frozenset(found)


def parent_of(pid: int) -> int:
    """The parent's pid, 0 when the process has gone (proc_pid_stat(5))."""
    fields = stat_fields(pid)
    return int(fields[1]) if fields else 0
