"""Takes secrets out of texts and bytes, in every spelling in which they travel."""

import json
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

HIDDEN = "***"


class Redactor:
    """Puts `***` in place of each secret: as it is written, in capitals or not, percent-encoded, in base64, or with backslashes.

    Secrets shorter than `at_least` characters stay: they are words that stand in any text.
    """

    def __init__(self, secrets: Iterable[str], at_least: int) -> None:
        spellings = {spelling for secret in secrets if len(secret) >= at_least for spelling in _spellings(secret)}
        # The longest first: a spelling may begin with another.
        found = "|".join(_pattern(spelling) for spelling in sorted(spellings, key=len, reverse=True))
        self._text, self._bytes = re.compile(found, re.IGNORECASE), re.compile(found.encode(), re.IGNORECASE)
        # Looking for one plain text after the other is ten times as quick as the pattern, and hardly ever is one there.
        self._words = {spelling.lower() for spelling in spellings}
        self._needles = {spelling.encode().lower() for spelling in spellings}

    def text(self, text: str) -> str:
        """The text without the secrets."""
        low = text.lower().replace("\\", "") if self._words else ""
        return self._text.sub(HIDDEN, text) if any(word in low for word in self._words) else text

    def body(self, body: bytes) -> bytes:
        """The bytes without the secrets; the very same object where there are none."""
        low = body.lower().replace(b"\\", b"") if self._needles else b""
        return self._bytes.sub(HIDDEN.encode(), body) if any(needle in low for needle in self._needles) else body


def _spellings(secret: str) -> Iterable[str]:
    """Without backslashes, as these may be doubled any number of times where one text is quoted within another."""
    for spelling in (secret, json.dumps(secret)[1:-1], quote(secret, safe=""), quote(secret), quote_plus(secret)):
        yield spelling.replace("\\", "")
    yield from _in_base64(secret.encode())


def _pattern(spelling: str) -> str:
    return "".join(r"\\*" + re.escape(letter) for letter in spelling)


def _in_base64(secret: bytes) -> Iterable[str]:
    """What all base64 texts that hold the secret share, whatever stands before and after it: three cases, by where it begins."""
    for before in range(3):
        whole = b"\0" * before + secret
        # Letters that a neighbouring byte has a part in are left out.
        first, last = -(-before * 8 // 6), len(whole) * 8 // 6
        for encode in (b64encode, urlsafe_b64encode):
            yield encode(whole).decode()[first:last]
