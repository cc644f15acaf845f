"""The machine's GPU by NVIDIA's own library, where it and a card are there: its name, load and memory.

``pip install pytest-browserpool[gpu]`` brings the library; without it, or without a card, there is nothing to measure
and nothing is said. Other vendors have no library of the kind on PyPI.
"""

from __future__ import annotations

import functools
from typing import Any


@functools.cache
def _cards() -> tuple[Any, tuple[Any, ...]]:
    try:
        import pynvml
    except ImportError:
        return None, ()
    try:
        pynvml.nvmlInit()
        cards = tuple(pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError:  # no driver, or none that this process may talk to
        return None, ()
    return pynvml, cards


def name() -> str:
    """The cards' names, such as ``NVIDIA L4``; empty without one."""
    nvml, cards = _cards()
    return ", ".join(str(nvml.nvmlDeviceGetName(card)) for card in cards)


def reading() -> dict[str, float]:
    """``gpu_percent`` (busiest card) and ``gpu_memory_bytes`` (all cards) now; nothing without a card.

    A reading takes well under a millisecond. What the driver refuses is left out.
    """
    nvml, cards = _cards()
    if not cards:
        return {}
    try:
        busy = max(nvml.nvmlDeviceGetUtilizationRates(card).gpu for card in cards)
        used = sum(nvml.nvmlDeviceGetMemoryInfo(card).used for card in cards)
    except nvml.NVMLError:
        return {}
    return {"gpu_percent": float(busy), "gpu_memory_bytes": float(used)}
