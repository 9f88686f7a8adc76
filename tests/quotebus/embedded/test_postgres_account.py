"""The system user that root's PostgreSQL runs as, made by many processes at once or missing."""

import asyncio
import contextlib
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from quotebus.embedded import PostgresServer, ServerError
from quotebus.embedded.postgres_account import account_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes system users")

# It says that it is ready, then waits for a line: all of them ask in the same moment.
ASKER = """
import sys
from quotebus.embedded.postgres_account import system_user
print("ready", flush=True)
sys.stdin.readline()
print(*system_user(sys.argv[1]), flush=True)
"""


@pytest.fixture
def new_user() -> Iterator[str]:
    """Name of a user that does not exist; whom the test makes is removed after it."""
    name = f"quotebus-test-{os.getpid()}"
    yield name
    subprocess.run(["userdel", name], check=False, capture_output=True)
    Path("/run", f"{name}.lock").unlink(missing_ok=True)
    with contextlib.suppress(KeyError):
        pytest.fail(f"{pwd.getpwnam(name)} is left")


async def test_processes_that_need_the_user_at_once_get_the_same_one(new_user: str) -> None:
    askers = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", ASKER, new_user, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    for asker in askers:
        assert asker.stdout is not None
        assert await asker.stdout.readline() == b"ready\n"
    answers = await asyncio.gather(*(asker.communicate(b"go\n") for asker in askers))
    made = pwd.getpwnam(new_user)
    assert [answer.split() for answer, _ in answers] == [[b"%d" % made.pw_uid, b"%d" % made.pw_gid]] * 3


async def test_a_folder_of_a_user_whom_the_system_does_not_know_is_refused_with_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    folder.mkdir()
    unknown = next(uid for uid in range(54_321, 60_000) if uid not in {user.pw_uid for user in pwd.getpwall()})
    os.chown(folder, unknown, unknown)
    assert account_for(folder) == (unknown, unknown)
    with pytest.raises(ServerError, match=f"belongs to user {unknown}, whom this system does not know.*: chown root {folder}"):
        await PostgresServer(tmp_path, fast=True).start()
