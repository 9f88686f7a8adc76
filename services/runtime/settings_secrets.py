"""The secrets that settings hold, for whoever has to keep them out of what is shown."""

from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, SecretStr


def secrets_of(settings: BaseModel) -> Iterator[str]:
    """Every secret text in these settings, also the passwords inside URLs, as they are written and as they are meant."""
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]:
            if isinstance(each, BaseModel):
                yield from secrets_of(each)
            elif isinstance(each, SecretStr):
                # A webhook's may be two.
                yield from {each.get_secret_value(), *each.get_secret_value().split()}
            text = each.get_secret_value() if isinstance(each, SecretStr) else each
            if isinstance(text, str) and "://" in text:
                # What is no address after all is for whoever connects to complain about.
                with suppress(ValueError):
                    password = urlsplit(text).password or ""
                    yield from {password, unquote(password)} - {""}
