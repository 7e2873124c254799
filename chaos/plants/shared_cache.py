"""TENANT: the cache is keyed without the tenant, so that one's blocks give another a hit."""

from __future__ import annotations

from dataclasses import replace

from chaos.core_double import CoreDouble
from chaos.invariants.invariant import Id
from chaos.plants.plant import Plant
from inference.blocks import KEY_BYTES
from inference.core import EngineCore
from inference.request import EngineRequest, Namespace

EVERYBODY = Namespace("everybody")


class _Shared(CoreDouble):
    def add(self, request: EngineRequest) -> None:
        self.inner.add(replace(request, namespace=EVERYBODY, chain_key=bytes(KEY_BYTES)))


class SharedCache(Plant):
    """Every node's engine."""

    name = "cache-without-tenant"
    invariant = Id.TENANT
    in_engine = True

    def engine(self, core: EngineCore) -> EngineCore:
        return _Shared(core)
