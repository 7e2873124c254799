from __future__ import annotations

import overlay.routing


def test_the_public_names_of_routing_are_these() -> None:
    assert len(set(overlay.routing.__all__)) == len(overlay.routing.__all__) <= 30
    assert all(hasattr(overlay.routing, name) for name in overlay.routing.__all__)
