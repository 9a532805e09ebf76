"""The typed keys under which the application and a request carry what handlers need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from server.tenant import Tenant

if TYPE_CHECKING:
    from server.service import Service

SERVICE: web.AppKey[Service] = web.AppKey("service")
TENANT = web.RequestKey("tenant", Tenant)
REQUEST_ID = web.RequestKey("request_id", str)
ARRIVED = web.RequestKey("arrived", float)
"""When its head had been read, on the monotonic clock."""

CLIENT_TIMEOUT: web.AppKey[float] = web.AppKey("client_timeout", float)
"""Seconds that a client may take to read what was written to it."""
