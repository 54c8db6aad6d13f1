"""The `earshot` command. Knows nothing about HTTP routes; loads torch only where it is needed."""

from service.cli.commands import main

__all__ = ["main"]
