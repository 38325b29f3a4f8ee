"""The endpoint of MCP where its package is not installed; tests/clients has the rest."""

from __future__ import annotations

import pytest

from tests.support.api_server import assert_failure

pytestmark = pytest.mark.anyio


async def test_without_the_package_the_endpoint_says_how_to_install_it(client):
    response = await client.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "ping"})
    error = assert_failure(response, 404, "NOT_FOUND")
    assert "pip install 'banatie[mcp]'" in error["message"]
