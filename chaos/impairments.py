"""What a link fault does to the bytes on a link: one class each, put on links by the network."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from chaos.delays import Delays
from chaos.pipe import Chunk, Impairment, Pipe

MakeRng = Callable[[str, str], Random]
"""The random stream of a directed link."""


class Hold(Impairment):
    """Nothing passes; TCP sends it again later."""

    holds = True

    def shape(self, pipe: Pipe, chunks: list[Chunk]) -> list[Chunk]:
        del pipe
        self.on_effect()
        return chunks


class Swallow(Impairment):
    """What is sent is gone, and so is every connection that it was sent on."""

    swallows = True

    def shape(self, pipe: Pipe, chunks: list[Chunk]) -> list[Chunk]:
        del pipe, chunks
        self.on_effect()
        return []

    def lifted(self, pipe: Pipe) -> None:
        pipe.break_now()


class Delay(Impairment):
    """Later by so much."""

    def __init__(self, delay_s: float, on_effect: Callable[[], None] = lambda: None) -> None:
        super().__init__(on_effect)
        self.delay_s = delay_s

    def shape(self, pipe: Pipe, chunks: list[Chunk]) -> list[Chunk]:
        del pipe
        self.on_effect()
        return [(due_s + self.delay_s, data) for due_s, data in chunks]

    def dial_delay_s(self) -> float:
        self.on_effect()
        return self.delay_s


class Jitter(Impairment):
    """Later by a normal draw; each draw is drawn towards the one before it."""

    def __init__(
        self,
        delay_s: float,
        spread_s: float,
        correlation: float,
        rng: MakeRng,
        on_effect: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(on_effect)
        self._delay_s = delay_s
        self._spread_s = spread_s
        self._correlation = correlation
        self._rng = rng
        self._delays: dict[tuple[str, str], Delays] = {}

    def shape(self, pipe: Pipe, chunks: list[Chunk]) -> list[Chunk]:
        self.on_effect()
        link = (pipe.source, pipe.target)
        found = self._delays.get(link)
        if found is None:
            found = self._delays[link] = Delays(
                self._delay_s, self._spread_s, self._correlation, self._rng(*link)
            )
        return [(due_s + found.draw(), data) for due_s, data in chunks]

    def dial_delay_s(self) -> float:
        return self._delay_s


class Corrupt(Impairment):
    """A flipped bit: the far end finds it and breaks the connection."""

    def __init__(
        self,
        fraction: float,
        rng: MakeRng,
        on_effect: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(on_effect)
        self._fraction = fraction
        self._rng = rng
        self._streams: dict[tuple[str, str], Random] = {}

    def shape(self, pipe: Pipe, chunks: list[Chunk]) -> list[Chunk]:
        link = (pipe.source, pipe.target)
        if link not in self._streams:
            self._streams[link] = self._rng(*link)
        if self._streams[link].random() >= self._fraction:
            return chunks
        self.on_effect()
        return [(due_s, None) for due_s, _ in chunks[:1]]


class Throttle(Impairment):
    """A link carries so many bytes a second, of all its connections together."""

    def __init__(self, bytes_per_s: float, on_effect: Callable[[], None] = lambda: None) -> None:
        super().__init__(on_effect)
        self._bytes_per_s = bytes_per_s
        self._free_s: dict[tuple[str, str], float] = {}

    def shape(self, pipe: Pipe, chunks: list[Chunk]) -> list[Chunk]:
        self.on_effect()
        link, shaped = (pipe.source, pipe.target), []
        for due_s, data in chunks:
            begin_s = max(due_s, self._free_s.get(link, 0.0))
            self._free_s[link] = begin_s + len(data or b"") / self._bytes_per_s
            shaped.append((self._free_s[link], data))
        return shaped


class SerialDelay(Impairment):
    """Each chunk takes the far end so long, one after the other."""

    def __init__(self, delay_s: float, on_effect: Callable[[], None] = lambda: None) -> None:
        super().__init__(on_effect)
        self._delay_s = delay_s
        self._free_s: dict[Pipe, float] = {}

    def shape(self, pipe: Pipe, chunks: list[Chunk]) -> list[Chunk]:
        self.on_effect()
        shaped = []
        for due_s, data in chunks:
            self._free_s[pipe] = max(due_s, self._free_s.get(pipe, 0.0)) + self._delay_s
            shaped.append((self._free_s[pipe], data))
        return shaped

    def dial_delay_s(self) -> float:
        return self._delay_s

    def lifted(self, pipe: Pipe) -> None:
        self._free_s.pop(pipe, None)


class TooBig(Impairment):
    """A chunk above a size never arrives, nor does what follows it, until the fault is over."""

    def __init__(self, size_bytes: int, on_effect: Callable[[], None] = lambda: None) -> None:
        super().__init__(on_effect)
        self._size_bytes = size_bytes

    def shape(self, pipe: Pipe, chunks: list[Chunk]) -> list[Chunk]:
        if any(data is not None and len(data) > self._size_bytes for _, data in chunks):
            self.on_effect()
            pipe.stuck_behind = self
        return chunks

    def lifted(self, pipe: Pipe) -> None:
        if pipe.stuck_behind is self:
            pipe.stuck_behind = None


class Slice(Impairment):
    """Chunks come in pieces with a gap after each."""

    def __init__(
        self, size_bytes: int, gap_s: float, on_effect: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(on_effect)
        self._size_bytes = size_bytes
        self._gap_s = gap_s

    def shape(self, pipe: Pipe, chunks: list[Chunk]) -> list[Chunk]:
        self.on_effect()
        size = self._size_bytes
        shaped: list[Chunk] = []
        for due_s, data in chunks:
            if data is None:
                shaped.append((due_s, data))
                continue
            begin_s = max(due_s, pipe.last_due_s)
            for number, first in enumerate(range(0, len(data), size)):
                piece: Chunk = (begin_s + number * self._gap_s, data[first : first + size])
                shaped.append(piece)
        return shaped


class LateEnd(Impairment):
    """Only the end of a connection is told later."""

    def __init__(self, delay_s: float, on_effect: Callable[[], None] = lambda: None) -> None:
        super().__init__(on_effect)
        self._delay_s = delay_s

    def end_delay_s(self) -> float:
        self.on_effect()
        return self._delay_s


class Quota(Impairment):
    """A connection breaks when it has carried so many bytes since the fault began."""

    def __init__(self, size_bytes: int, on_effect: Callable[[], None] = lambda: None) -> None:
        super().__init__(on_effect)
        self._size_bytes = size_bytes
        self._carried: dict[Pipe, int] = {}

    def shape(self, pipe: Pipe, chunks: list[Chunk]) -> list[Chunk]:
        carried = self._carried.get(pipe, 0) + sum(len(data or b"") for _, data in chunks)
        self._carried[pipe] = carried
        if carried <= self._size_bytes:
            return chunks
        self.on_effect()
        return [(due_s, None) for due_s, _ in chunks[:1]]

    def lifted(self, pipe: Pipe) -> None:
        self._carried.pop(pipe, None)
