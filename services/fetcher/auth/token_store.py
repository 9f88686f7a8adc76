"""Encrypted token store in a KV bucket, shared by all replicas: the encryption key derives from the account's secret."""

import hashlib
import os

import nats.errors
import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from nats.js.errors import APIError, KeyNotFoundError, KeyWrongLastSequenceError
from nats.js.kv import KeyValue

from services.fetcher.provider import Credentials, ProviderError, StoredValue, Verdict

NONCE_BYTES = 12
PURPOSE = b"quotebus tokens v1"

log = structlog.get_logger()


class EncryptedTokenStore:
    """`provider.TokenStore` of one account, encrypted. A value encrypted under another secret reads as empty."""

    def __init__(self, bucket: KeyValue, provider: str, credentials: Credentials) -> None:
        self._bucket = bucket
        self._provider = provider
        # Another key is another application, with tokens of its own.
        self._name = f"{provider}.{hashlib.sha256(credentials.api_key.encode()).hexdigest()[:16]}"
        # The vendor made the secret up at random: no slow derivation has to stretch it.
        derive = HKDF(algorithm=SHA256(), length=32, salt=self._name.encode(), info=PURPOSE)
        self._cipher = AESGCM(derive.derive(credentials.api_secret.encode()))

    async def read(self) -> StoredValue:
        """See `TokenStore`."""
        try:
            entry = await self._bucket.get(self._name)
        except KeyNotFoundError as error:
            # Of a key that was deleted the marker's revision is the one to write after.
            return StoredValue(b"", error.entry.revision if error.entry else 0)
        except (nats.errors.Error, APIError) as error:
            raise self._store_error(error) from None
        return StoredValue(self._decrypt(entry.value or b""), entry.revision or 0)

    async def write(self, value: bytes, revision: int) -> int | None:
        """See `TokenStore`."""
        try:
            return await self._bucket.update(self._name, self._encrypt(value), last=revision)
        except KeyWrongLastSequenceError:
            return None
        except nats.errors.TimeoutError:
            # It may be stored all the same: then it is ours, else another may have been first.
            kept = await self.read()
            return kept.revision if kept.value == value else None
        except (nats.errors.Error, APIError) as error:
            raise self._store_error(error) from None

    def _encrypt(self, value: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, value, self._name.encode())

    def _decrypt(self, encrypted: bytes) -> bytes:
        try:
            return self._cipher.decrypt(encrypted[:NONCE_BYTES], encrypted[NONCE_BYTES:], self._name.encode())
        except (InvalidTag, ValueError):
            log.warning("tokens_not_readable", provider=self._provider, action="kept under another api_secret; they are replaced")
            return b""

    def _store_error(self, error: Exception) -> ProviderError:
        why = str(error) or type(error).__name__
        return ProviderError(Verdict.SERVER_ERROR, f"{self._provider}: the store of its tokens does not answer: {why}")
