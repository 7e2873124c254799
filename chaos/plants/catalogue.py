"""Every planted bug by its name."""

from __future__ import annotations

from collections.abc import Mapping

from chaos.plants.bookings_kept import BookingsKept
from chaos.plants.dearest_first import DearestFirst
from chaos.plants.endless_cancel import EndlessCancel
from chaos.plants.late_evictions import LateEvictions
from chaos.plants.no_repairs import NoRepairs
from chaos.plants.no_second_try import NoSecondTry
from chaos.plants.old_heads import OldHeads
from chaos.plants.plant import Plant
from chaos.plants.shared_cache import SharedCache
from chaos.plants.socket_left import SocketLeft
from chaos.plants.token_twice import TokenTwice
from chaos.plants.unsigned_records import UnsignedRecords
from chaos.plants.wrong_token import WrongToken

_ALL: tuple[Plant, ...] = (
    WrongToken(),
    SharedCache(),
    UnsignedRecords(),
    OldHeads(),
    LateEvictions(),
    NoRepairs(),
    TokenTwice(),
    NoSecondTry(),
    DearestFirst(),
    BookingsKept(),
    EndlessCancel(),
    SocketLeft(),
)

PLANTS: Mapping[str, Plant] = {plant.name: plant for plant in _ALL}
