"""The fixtures of these tests."""

from artefact_support import cache, server

__all__ = ["cache", "server"]
