"""What all tests share."""

from __future__ import annotations

import signal

from hypothesis import settings

# No test is timed: the machines that run them are shared.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# A shell ignores these for what it runs in the background, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
