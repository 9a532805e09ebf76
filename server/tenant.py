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


@dataclass(frozen=True, slots=True)
class Tenant:
    """One API key's owner. Stable over restarts, so that a journal's sessions find their owner again."""

    id: str
    salt: bytes

    def salted(self, cache_salt: str) -> Tenant:
        """The same owner with a cache apart: OpenAI clients name one with `cache_salt`."""
        salt = blake2b(cache_salt.encode(), key=self.salt[:64], digest_size=16, person=b"cache_salt").digest()
        return replace(self, salt=salt)


ANONYMOUS = Tenant(id="anonymous", salt=b"")
"""Everybody, on a server without keys."""


class KeyRing:
    """The configured API keys. Empty: everybody is let in, as one tenant."""

    def __init__(self, api_keys: Iterable[str]) -> None:
        self._tenants = tuple((_digest(key.encode()), _tenant(key.encode())) for key in api_keys)

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


def _tenant(key: bytes) -> Tenant:
    return Tenant(
        id=blake2b(key, digest_size=8, person=b"tenant id").hexdigest(),
        salt=blake2b(key, digest_size=16, person=b"tenant salt").digest(),
    )
