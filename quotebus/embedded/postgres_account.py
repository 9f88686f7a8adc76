"""The user PostgreSQL runs as: ourselves, or one of its own when we are root, which PostgreSQL refuses to serve."""

import os
import pwd
import stat
import subprocess
import time
from pathlib import Path

from quotebus.embedded.birth import Account
from quotebus.embedded.process import ServerError

_USER = "quotebus-postgres"


def account_for(folder: Path) -> Account | None:
    """Whose process the server of this folder must be; none means ours.

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
        return Account(owner.st_uid, owner.st_gid)
    return _system_user()


def may_pass(account: Account, path: Path) -> bool:
    """Whether a user of no further groups may pass all folders on the way to `path`, and enter or run what is there."""

    def allowed(step: Path) -> bool:
        found = step.stat()
        if found.st_uid == account.uid:
            return bool(found.st_mode & stat.S_IXUSR)
        return bool(found.st_mode & (stat.S_IXGRP if found.st_gid == account.gid else stat.S_IXOTH))

    return all(allowed(step) for step in (path, *path.parents))


def _system_user() -> Account:
    for attempt in range(20):
        try:
            user = pwd.getpwnam(_USER)
        except KeyError:
            failure = _make_user()
            # Another process may be making it at this moment, and hold the lock on the password file.
            time.sleep(0.1 if attempt else 0)
        else:
            return Account(user.pw_uid, user.pw_gid)
    raise ServerError(
        f"PostgreSQL does not run as root, and a user {_USER} for it could not be made ({failure}):"
        f" run as another user, or make it with: useradd --system {_USER}"
    )


def _make_user() -> str:
    options = ["--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin"]
    try:
        # Every argument is written above; root's own PATH says which useradd.
        made = subprocess.run(["useradd", *options, _USER], capture_output=True, text=True, check=False)  # noqa: S603, S607
    except OSError as error:
        return str(error)
    return made.stderr.strip()


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
