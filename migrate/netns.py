"""Do something in the network namespace of another process.

Light to import: the runtime's supervisor needs it, for which the container waits.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h


class _Visit(threading.Thread, Generic[T]):
    def __init__(self, pid: int, call: Callable[[], T]) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._call = call
        self.value: T
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            with open(f"/proc/{self._pid}/ns/net") as namespace:
                if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            self.value = self._call()
        except BaseException as failure:  # noqa: BLE001 - raised in the thread that asked
            self.failure = failure


def within(pid: int, call: Callable[[], T]) -> T:
    """Call something in the network namespace of a process: in a thread, which then ends. (Not
    os.setns, which Python has from 3.12 on.) Raises OSError, and what `call` raises."""
    visit = _Visit(pid, call)
    visit.start()
    visit.join()
    if visit.failure:
        raise visit.failure
    return visit.value
