"""Where and how the embedded engine computes: device, number format, threads, each with its why."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from inference.errors import UnsupportedModel

DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device and why it was taken."""

    device: torch.device
    why: str


def choose_device(wanted: str) -> Device:
    """The device for ``auto``, ``cuda`` or ``cpu``.

    Raises:
        UnsupportedModel: CUDA was asked for and torch cannot use it.
    """
    if wanted == "cpu":
        return Device(device=torch.device("cpu"), why="asked for")
    trouble = _cuda_trouble()
    if trouble is None:
        name = torch.cuda.get_device_name(0)
        why = name if wanted == "auto" else f"{name}, asked for"
        return Device(device=torch.device("cuda", 0), why=why)
    if wanted == "cuda":
        raise UnsupportedModel(
            f"device cuda cannot be used: {trouble}; mend that, or use --device cpu"
        )
    return Device(device=torch.device("cpu"), why=trouble)


def _cuda_trouble() -> str | None:
    """Why torch cannot compute on a GPU here; None when it can."""
    if torch.cuda.is_available():
        return None
    if not _gpu_visible():
        return "no GPU found"
    if torch.version.cuda is None:
        return (
            f"a GPU is there, but torch {torch.__version__} was built without CUDA: "
            "install a CUDA build of torch to use it"
        )
    return (
        f"a GPU is there, but torch {torch.__version__} cannot use it: "
        f"its driver is too old for CUDA {torch.version.cuda}, or it is hidden from this process"
    )


def _gpu_visible() -> bool:
    return Path("/dev/nvidia0").exists() or Path("/proc/driver/nvidia/version").exists()


def choose_dtype(wanted: str, device: torch.device, checkpoint: torch.dtype | None) -> torch.dtype:
    """The number format: as asked; for ``auto`` float32 on a CPU, the checkpoint's on a GPU.

    Raises:
        UnsupportedModel: ``wanted`` is no format of :data:`DTYPES`.
    """
    if wanted != "auto":
        if wanted not in DTYPES:
            raise UnsupportedModel(
                f"no such dtype: {wanted[:40]!r}; use one of {', '.join(DTYPES)}"
            )
        return DTYPES[wanted]
    if device.type == "cpu" or checkpoint not in DTYPES.values():
        return torch.float32
    assert checkpoint is not None
    return checkpoint


def dtype_name(dtype: torch.dtype) -> str:
    """``float32`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def choose_threads(wanted: int) -> int:
    """As asked; for 0 physical cores minus one, so that the peer itself always has a core."""
    return wanted if wanted > 0 else max(1, physical_cores() - 1)


def physical_cores() -> int:
    """Cores that this process may use; two hardware threads of one core count once."""
    usable = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        usable = len(os.sched_getaffinity(0))
    siblings = {
        file.read_text().strip()
        for file in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/topology/thread_siblings_list")
    }
    return min(usable, len(siblings) or usable)


OUT_OF_MEMORY_WORDS = (
    *("out of memory", "can't allocate memory", "not enough memory", "bad_alloc"),
    "cublas_status_alloc_failed",
)
"""What allocators say that have no error type of their own; torch's on a CPU is the second."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether computing less at once may help."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in OUT_OF_MEMORY_WORDS)


def is_device_fault(error: Exception) -> bool:
    """Whether the device itself is in doubt: every later call on it may fail as well."""
    return isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error)


def free_bytes(device: torch.device) -> int:
    """Memory of a CUDA device that nobody uses at present."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(free)
