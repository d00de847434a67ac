"""The most memory that something needed: on a GPU as its allocator has it, on Linux as the kernel has it.

Linux keeps the largest resident size of a process, VmHWM, which writing 5 to /proc/self/clear_refs sets back to what is
resident now (man 5 proc). Memory that C's allocator was given back and keeps for later is resident, though free: it is
handed to the system first, lest the second of two equal runs seem to need nothing.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def watch(device: torch.device) -> Callable[[], int | None]:
    """Start watching; what comes back says how many bytes above the start were in use at most since.

    It answers None where the system does not tell. Another thread's memory is counted too, and a page is the least that
    is seen. One watch at a time: a second one sets the peak back.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        start = torch.cuda.memory_allocated(device)
        return lambda: torch.cuda.max_memory_allocated(device) - start
    if device.type != "cpu":
        return lambda: None
    _give_back_what_is_free()
    try:
        CLEAR.write_text("5", encoding="ascii")
    except OSError:
        return lambda: None
    before = _kilobytes("VmRSS")

    def peak() -> int | None:
        highest = _kilobytes("VmHWM")
        return None if before is None or highest is None else max(highest - before, 0) * 1024

    return peak


def _kilobytes(name: str) -> int | None:
    try:
        lines = STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)


def _give_back_what_is_free() -> None:
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):  # not glibc
        return
