"""The user PostgreSQL runs as: ourselves, or one of its own when we are root, which PostgreSQL refuses to serve."""

import fcntl
import os
import pwd
import stat
import subprocess
import time
from pathlib import Path

from quotebus.embedded.child_setup import OsUser
from quotebus.embedded.process import ServerError

_USER = "quotebus-postgres"
_LOCKS = Path("/run")


def account_for(folder: Path) -> OsUser | None:
    """OS user that the server of this data folder must run as; None means the current user.

    Root's server belongs to the folder's owner, and a new folder to a system user that is made for it here.

    Raises:
        ServerError: the folder is another user's, or that system user cannot be made.
    """
    owner = folder.stat() if folder.exists() else None
    if os.geteuid() != 0:
        if owner is not None and owner.st_uid != os.geteuid():
            raise ServerError(f"{folder} belongs to {_name(owner.st_uid)}: run as that user or root, or give another --data")
        return None
    if owner is not None and owner.st_uid != 0:
        return OsUser(owner.st_uid, owner.st_gid)
    return system_user()


def may_pass(account: OsUser, path: Path) -> bool:
    """True if a user without further groups can traverse every folder of `path`, and enter or execute its end."""

    def allowed(step: Path) -> bool:
        found = step.stat()
        if found.st_uid == account.uid:
            return bool(found.st_mode & stat.S_IXUSR)
        return bool(found.st_mode & (stat.S_IXGRP if found.st_gid == account.gid else stat.S_IXOTH))

    return all(allowed(step) for step in (path, *path.parents))


def is_known(account: OsUser) -> bool:
    """Tell whether the system has a name for this user: initdb serves no other."""
    try:
        pwd.getpwuid(account.uid)
    except KeyError:
        return False
    return True


def system_user(name: str = _USER) -> OsUser:
    """System user of this name, made if there is none yet, and the same for all processes that ask at once.

    Raises:
        ServerError: there is none, and it cannot be made.
    """
    return _find_user(name) or _make_user_alone(name)


def _make_user_alone(name: str) -> OsUser:
    try:
        # In a folder where root alone writes: nobody else can put a link of this name there.
        lock = os.open(_LOCKS / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _cannot_make(name, str(error)) from error
    try:
        # useradd looks for the name before it locks the password file: of two at once the later replaces the user of the
        # earlier by one of another uid, and both report success.
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _find_user(name) or _make_user(name)
    finally:
        os.close(lock)


def _make_user(name: str) -> OsUser:
    failure = ""
    for attempt in range(20):
        # Another program, such as apt, may hold the password file's own lock at this moment.
        time.sleep(0.1 if attempt else 0)
        failure = _add_user(name)
        if user := _find_user(name):
            return user
    raise _cannot_make(name, failure or "useradd reported success, but the system does not know it")


def _find_user(name: str) -> OsUser | None:
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        return None
    return OsUser(user.pw_uid, user.pw_gid)


def _add_user(name: str) -> str:
    options = ["--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin"]
    try:
        # No argument comes from outside; root's own PATH says which useradd.
        added = subprocess.run(["useradd", *options, name], capture_output=True, text=True, check=False)  # noqa: S603, S607
    except OSError as error:
        return str(error)
    return added.stderr.strip()


def _cannot_make(name: str, reason: str) -> ServerError:
    return ServerError(
        f"PostgreSQL does not run as root, and a user {name} for it could not be made ({reason}):"
        f" run as another user, or make it with: useradd --system {name}"
    )


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
