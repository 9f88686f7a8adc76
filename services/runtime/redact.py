"""Takes secrets out of texts and bytes, in every spelling in which they travel."""

import json
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

HIDDEN = "***"


class Redactor:
    """Puts `***` in place of each secret: as it is written, percent-encoded, in base64, or escaped as JSON does it.

    Secrets shorter than `at_least` characters stay: they are words that stand in any text.
    """

    def __init__(self, secrets: Iterable[str], at_least: int) -> None:
        spellings = {spelling for secret in secrets if len(secret) >= at_least for spelling in _spellings(secret)}
        # The longest first: a spelling may begin with another.
        found = "|".join(map(re.escape, sorted(spellings, key=len, reverse=True)))
        self._in_text = re.compile(found) if found else None
        self._in_bytes = re.compile(found.encode())
        self._needles = [spelling.encode() for spelling in spellings]

    def text(self, text: str) -> str:
        """The text without the secrets."""
        return self._in_text.sub(HIDDEN, text) if self._in_text else text

    def body(self, body: bytes) -> bytes:
        """The bytes without the secrets; the very same object where there are none."""
        # Looking for one text after the other is ten times as quick as for any of them at once, and hardly ever is one there.
        return self._in_bytes.sub(HIDDEN.encode(), body) if any(needle in body for needle in self._needles) else body


def _spellings(secret: str) -> Iterable[str]:
    yield secret
    for encoded in (quote(secret, safe=""), quote(secret), quote_plus(secret)):
        yield encoded
        yield re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), encoded)
    for escaped in (json.dumps(secret), json.dumps(secret, ensure_ascii=False)):
        yield escaped[1:-1]
        yield escaped[1:-1].replace("/", "\\/")
    yield from _in_base64(secret.encode())


def _in_base64(secret: bytes) -> Iterable[str]:
    """What all base64 texts that hold the secret share, whatever stands before and after it: three cases, by where it begins."""
    for before in range(3):
        whole = b"\0" * before + secret
        # Letters that a neighbouring byte has a part in are left out.
        first, last = -(-before * 8 // 6), len(whole) * 8 // 6
        for encode in (b64encode, urlsafe_b64encode):
            yield encode(whole).decode()[first:last]
