"""The models that were converted on this host: folders of the cache, each with its source in it."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from inference.errors import ModelBusy, ModelMissing
from inference.store.convert import CONVERTER_VERSION, SOURCE_FILE, Source, only_one, read_source
from inference.store.package import is_packaged


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """A folder that was converted here."""

    folder: Path
    source: Source

    @property
    def is_current(self) -> bool:
        """Whether this version of the converter made it; others are not used."""
        return self.folder.name.endswith(f"-v{CONVERTER_VERSION}")


def converted_models(cache_dir: Path) -> list[Converted]:
    """All of them, by folder name. What has no readable source was not made here."""
    found = []
    for file in sorted(cache_dir.glob(f"[!.]*/{SOURCE_FILE}")):
        try:
            source = read_source(file.parent)
        except (OSError, ValueError, TypeError):
            continue
        if source is not None:
            found.append(Converted(folder=file.parent, source=source))
    return found


def find_converted(name: str, cache_dir: Path) -> Converted | None:
    """The model of that name or folder name, of this version; None where there is none.

    Raises:
        ModelMissing: Several have the name, as two quantisations of one model; names the folders.
    """
    models = [each for each in converted_models(cache_dir) if each.is_current]
    for model in models:
        if model.folder.name == name:
            return model
    named = [each for each in models if each.source.name == name]
    if len(named) > 1:
        folders = ", ".join(each.folder.name for each in named)
        raise ModelMissing(f"{name} was converted from {len(named)} files; name one: {folders}")
    return named[0] if named else None


def handles(models: Sequence[Converted]) -> dict[Path, str]:
    """What each is to be called by: its name, or its folder's where the name means more."""
    named = Counter(each.source.name for each in models if each.is_current)
    return {
        each.folder: each.source.name
        if each.is_current and named[each.source.name] == 1 and not is_packaged(each.source.name)
        else each.folder.name
        for each in models
    }


def remove_converted(model: Converted) -> None:
    """Removes the folder, at once for whoever looks for it.

    Raises:
        ModelBusy: Another process is making it.
        OSError: It cannot be removed.
    """
    try:
        with only_one(model.folder, wait=False):
            going = model.folder.with_name(f".{model.folder.name}-removed")
            model.folder.rename(going)
            shutil.rmtree(going)
    except BlockingIOError:
        raise ModelBusy(f"{model.folder.name} is being converted by another process") from None
