"""Where a request runs: expected completion time, decided by each router for itself."""

from overlay.routing.booking import Booked, BookingId, Bookings
from overlay.routing.candidate import (
    Candidate,
    Exclusion,
    PeerView,
    Query,
    Standing,
    candidates_of,
    freshness,
)
from overlay.routing.cost import CostTerms
from overlay.routing.decide import Decision, decide
from overlay.routing.expected_output import ExpectedOutput
from overlay.routing.measured import FirstToken, Measured
from overlay.routing.memory import Memory, Recall, Sent
from overlay.routing.policies import POLICIES, Policy, Reason, policy_named
from overlay.routing.probation import Probation
from overlay.routing.ring import Ring

__all__ = [
    "POLICIES",
    "Booked",
    "BookingId",
    "Bookings",
    "Candidate",
    "CostTerms",
    "Decision",
    "Exclusion",
    "ExpectedOutput",
    "FirstToken",
    "Measured",
    "Memory",
    "PeerView",
    "Policy",
    "Probation",
    "Query",
    "Reason",
    "Recall",
    "Ring",
    "Sent",
    "Standing",
    "candidates_of",
    "decide",
    "freshness",
    "policy_named",
]
