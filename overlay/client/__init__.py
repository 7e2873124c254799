"""Requests from Python: :class:`PeerClient`."""

from overlay.client.client import Answer, PeerClient

__all__ = ["Answer", "PeerClient"]
