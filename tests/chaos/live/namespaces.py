"""Whether tests that need network namespaces can run here; where not, they say why."""

from __future__ import annotations

import pytest

from chaos.modes.live.namespace import refusal

WHY_NOT = refusal()
needs_namespaces = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
