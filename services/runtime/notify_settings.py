"""The `[[notify]]` tables: who is told of runs, and of what."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, model_validator

from services.runtime.key_settings import Section

Occasion = Literal["finished", "failed", "missed"]


class NotifySettings(Section):
    """One receiver. `id` names it in logs and on the bus.

    `url`: http and https are our own signed webhook, anything else is apprise's. `secret`: what a webhook is signed with; during a
    change of secrets both, with a space between. `jobs`: of these alone, `-` for requests by hand; none means every job, and no
    request by hand. `on`: finished is the end of every run, failed of those with failed or expired symbols, missed slots without
    a run. `allow_private`: a webhook may go to addresses that are not public.
    """

    id: Annotated[str, Field(pattern=r"^[a-z0-9_][a-z0-9_-]{0,63}$")]
    url: SecretStr
    secret: SecretStr | None = None
    jobs: list[str] = []
    on: Annotated[list[Occasion], Field(min_length=1)] = ["failed", "missed"]
    allow_private: bool = False

    @property
    def webhook(self) -> bool:
        """Whether we send it ourselves."""
        return self.url.get_secret_value().lower().startswith(("http://", "https://"))

    @model_validator(mode="after")
    def _complete(self) -> "NotifySettings":
        url = self.url.get_secret_value()
        if "://" not in url or (self.webhook and not urlsplit(url).hostname):
            raise ValueError(f"notify {self.id}: url: not an address such as https://host/path, slack://… or mailto://…")
        if self.webhook and not (self.secret and self.secret.get_secret_value().split()):
            raise ValueError(f"notify {self.id}: secret: a webhook is signed; make one with `openssl rand -base64 32`")
        return self
