"""``rhizome`` with a toy engine that breaks where a prompt says so, and quotes it as it does.

Words in a prompt: ``break-tokenizer``, ``break-step``, ``break-thread``, ``break-peer``.
"""

from __future__ import annotations

import threading
from typing import Any

from inference import toy, toy_language
from inference.request import EngineRequest
from overlay.commands.main import main

Core = toy.ToyEngine


class Quoting(Exception):
    """An exception of somebody else's library."""


def fail(text: str) -> None:
    raise Quoting(f"cannot work on {text[-120:]!r}")


def breaking(core: type[Any]) -> None:  # Any: methods are replaced
    """Makes a core break."""
    tokenize, add, step, load = core.tokenize, core.add, core.step, core.load
    broken: dict[str, str] = {}

    def tokenize_or_break(self: Any, model: str, prompt: Any) -> Any:
        found = tokenize(self, model, prompt)
        text = "" if found is None else toy_language.decode(found)
        if "break-tokenizer" in text:
            fail(text)
        if "break-thread" in text:
            threading.Thread(target=fail, args=(text,)).start()
        return found

    def add_and_note(self: Any, request: EngineRequest) -> None:
        text = toy_language.decode(request.token_ids)
        for where in ("break-step", "break-peer"):
            if where in text:
                broken[where] = text
        add(self, request)

    def step_or_break(self: Any) -> Any:
        if text := broken.pop("break-step", ""):
            fail(text)
        return step(self)

    def load_or_break(self: Any) -> Any:
        if text := broken.get("break-peer", ""):
            fail(text)
        return load(self)

    core.tokenize, core.add = tokenize_or_break, add_and_note
    core.step, core.load = step_or_break, load_or_break


if __name__ == "__main__":
    breaking(Core)
    main()
