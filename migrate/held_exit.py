"""A child that cannot die unseen: it stops on its way out, with all of its files still open.

ptrace(2), PTRACE_O_TRACEEXIT: also when it is killed by SIGKILL. It costs the child nothing until
then but a stop for each signal. Where it may not be traced, its end is seen when it is over.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess

# linux/ptrace.h
_CONT, _GETEVENTMSG, _SEIZE, _LISTEN = 7, 0x4201, 0x4206, 0x4208
_TRACEEXIT = 1 << 6
_EVENT_EXIT, _EVENT_STOP = 6, 128
_WALL = 0x40000000  # also what is no child of ours by itself, but traced
_STOPS = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long


class HeldExit:
    """One child. SIGCHLD says when to `look`. Nobody else may wait for it.

    `held`: it is at its end, and stands still there until `let_go`.
    """

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self._child = child
        self.held = False
        self._code: int | None = None
        _libc.ptrace(_SEIZE, child.pid, None, _TRACEEXIT)

    def look(self) -> int | None:
        """Its exit code, as Popen gives it, once nothing can keep it alive; else None."""
        while self._code is None:
            pid, status = os.waitpid(self._child.pid, os.WNOHANG | _WALL)
            if not pid:
                break
            if not os.WIFSTOPPED(status):
                self._ended(status)
            elif status >> 16 == _EVENT_EXIT:
                self.held = True
                at_end = ctypes.c_ulong()
                _libc.ptrace(_GETEVENTMSG, pid, None, ctypes.addressof(at_end))
                self._code = os.waitstatus_to_exitcode(at_end.value)
            elif status >> 16 == _EVENT_STOP and os.WSTOPSIG(status) in _STOPS:
                _libc.ptrace(_LISTEN, pid, None, None)  # it stays stopped, as it would untraced
            else:
                passed_on = 0 if status >> 16 else os.WSTOPSIG(status)
                _libc.ptrace(_CONT, pid, None, passed_on)
        return self._code

    def kill(self) -> None:
        if self._child.returncode is None:
            os.kill(self._child.pid, signal.SIGKILL)

    def let_go(self) -> None:
        """Once `look` has given its code: let it end, and wait for that."""
        if self.held:
            _libc.ptrace(_CONT, self._child.pid, None, None)
        if self._child.returncode is None:
            self._ended(os.waitpid(self._child.pid, _WALL)[1])

    def _ended(self, status: int) -> None:
        self._code = self._child.returncode = os.waitstatus_to_exitcode(status)
