"""Child setup between fork and exec: ties the child's lifetime to its parent's, and switches to another user.

Source: prctl(2), capabilities(7).
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

_SET_PARENT_DEATH_SIGNAL = 1
_SET_KEEP_CAPABILITIES = 8
_AMBIENT, _AMBIENT_RAISE = 47, 2
_CAPABILITY_VERSION_3 = 0x20080522
_READ_ANY_FILE, _OVERRIDE_FILE_MODES = 2, 1  # CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE

# Loaded once here: after a fork nothing may take a lock, and loading does.
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class OsUser(NamedTuple):
    uid: int
    gid: int


def die_with_parent(
    death_signal: signal.Signals, account: OsUser | None = None, capability: int | None = None
) -> Callable[[], None]:
    """A `preexec_fn` after which the child gets `death_signal` when the thread that forked it ends, kill -9 included.

    With `account` the child runs as that user, and keeps one Linux capability if one is named. Only Linux can tie
    processes so; elsewhere the child outlives a killed parent.
    """
    parent = os.getpid()

    def before_exec() -> None:
        if account is not None:
            _become(account, capability)
        # After the change of user, which would clear it.
        if _LIBC is not None:
            _LIBC.prctl(_SET_PARENT_DEATH_SIGNAL, int(death_signal), 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

    return before_exec


def capability_to_pass_closed_folders() -> int | None:
    """The least capability this process has that lets a child of another user reach files in closed folders."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    held = next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:")), 0)
    return next((one for one in (_READ_ANY_FILE, _OVERRIDE_FILE_MODES) if held >> one & 1), None)


def plain_environment() -> dict[str, str]:
    """The few variables a server needs: no provider's key, and nothing that would bend its settings."""
    return {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "TMPDIR") if name in os.environ}


def _become(account: OsUser, capability: int | None) -> None:
    if capability is not None and _LIBC is not None:
        _LIBC.prctl(_SET_KEEP_CAPABILITIES, 1, 0, 0, 0)
    os.setgroups([])
    os.setgid(account.gid)
    os.setuid(account.uid)
    if capability is not None and _LIBC is not None:
        header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
        bit = 1 << capability
        _LIBC.capset(header, (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0))
        _LIBC.prctl(_AMBIENT, _AMBIENT_RAISE, capability, 0, 0)
