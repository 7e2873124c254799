"""The parts of ``benchmarks/routing.py``: workloads, engines, routers and the event loop."""
