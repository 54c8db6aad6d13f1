"""The server that the tests of the API have."""

from __future__ import annotations

from tests.api.conftest import live, parts, server

__all__ = ["live", "parts", "server"]
