"""`banatie mcp`: an MCP server on standard input and output, for a running server."""

from __future__ import annotations

import importlib.util

import click

from banatie.cli.terminal import Text
from banatie.client import ADDRESS


@click.command("mcp")
@click.option("--url", type=Text(), default=ADDRESS, show_default=True, help="The server.")
@click.option(
    "--key",
    type=Text(),
    envvar="BANATIE_API_KEY",
    required=True,
    help="An API key; better in the environment variable BANATIE_API_KEY.",
)
def mcp(url: str, key: str) -> None:
    """Serve MCP on standard input and output, for a client that starts this command."""
    if importlib.util.find_spec("mcp") is None:
        raise click.ClickException("this takes an extra: pip install 'banatie[mcp]'")
    from banatie.mcp_server import run_stdio

    run_stdio(url, key)
