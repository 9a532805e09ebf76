"""Who a request belongs to: the API keys that are let in, and the tenant that each of them is.

Responsible for: comparing keys in constant time, and deriving from a key the two things the rest of the
server may know of it. A tenant's `id` owns sessions and requests; its `salt` separates cached KV
(reliability.md: the timing of a prefix hit tells what others have asked). Neither gives the key away, and
keys are kept as digests.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Annotated

import msgspec


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of `--api-key-file`. `salt`: keys with the same one share cached KV; absent, each has its own.
    `max_concurrency`: in place of `--max-concurrency-per-key`."""

    key: Annotated[str, msgspec.Meta(min_length=1)]
    salt: str | None = None
    max_concurrency: Annotated[int, msgspec.Meta(ge=1)] | None = None


@dataclass(frozen=True, slots=True)
class Tenant:
    """One API key's owner. Stable over restarts, so that a journal's sessions find their owner again."""

    id: str
    salt: bytes
    max_concurrency: int | None = None

    def salted(self, cache_salt: str) -> Tenant:
        """The same owner with a cache apart: OpenAI clients name one with `cache_salt`."""
        salt = blake2b(cache_salt.encode(), key=self.salt[:64], digest_size=16, person=b"cache_salt").digest()
        return replace(self, salt=salt)


ANONYMOUS = Tenant(id="anonymous", salt=b"")
"""Everybody, on a server without keys."""


class KeyRing:
    """The configured API keys. Empty: everybody is let in, as one tenant."""

    def __init__(self, api_keys: Iterable[str], entries: Iterable[ApiKey] = ()) -> None:
        keys = (*(ApiKey(key=key) for key in api_keys), *entries)
        self._tenants = tuple((_digest(entry.key.encode()), _tenant(entry)) for entry in keys)

    def tenant(self, presented: str | None) -> Tenant | None:
        """The tenant of a presented key, or None. Takes as long for a wrong key as for a right one."""
        if not self._tenants:
            return ANONYMOUS
        digest = _digest((presented or "").encode("utf-8", "surrogateescape"))
        found: Tenant | None = None
        for known, tenant in self._tenants:
            if hmac.compare_digest(known, digest):
                found = tenant
        return found


def _digest(key: bytes) -> bytes:
    return blake2b(key, digest_size=32, person=b"api key").digest()


def _tenant(entry: ApiKey) -> Tenant:
    key = entry.key.encode()
    salt = blake2b(key, digest_size=16, person=b"tenant salt")
    if entry.salt is not None:
        salt = blake2b(entry.salt.encode(), digest_size=16, person=b"shared salt")
    return Tenant(
        id=blake2b(key, digest_size=8, person=b"tenant id").hexdigest(),
        salt=salt.digest(),
        max_concurrency=entry.max_concurrency,
    )
