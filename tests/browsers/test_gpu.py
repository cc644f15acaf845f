"""What is measured of a GPU: with NVIDIA's own library, and nothing made up where there is no card."""

from __future__ import annotations

import pytest

from pytest_browserpool.browsers import gpu

pynvml = pytest.importorskip("pynvml", reason="needs pytest-browserpool[gpu]")


def cards() -> int:
    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return 0


def test_what_is_told_is_what_the_library_sees() -> None:
    gpu._cards.cache_clear()
    found = gpu.reading()
    if not cards():
        assert (gpu.name(), found) == ("", {})
        return
    assert gpu.name()
    assert 0 <= found["gpu_percent"] <= 100
    assert found["gpu_memory_bytes"] > 0
