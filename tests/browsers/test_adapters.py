"""A software adapter is told from a hardware one by what browsers really say of themselves."""

from __future__ import annotations

import pytest

from pytest_browserpool.values import Adapter

SOFTWARE = (
    Adapter(vendor="google", architecture="swiftshader", fallback=True),  # Chromium 156
    Adapter(fallback=True),  # Firefox 153 on lavapipe: nothing but this
    Adapter(vendor="mesa", architecture="llvmpipe", description="llvmpipe (LLVM 15.0.6, 256 bits)"),
    Adapter(vendor="microsoft", description="Microsoft Basic Render Driver"),
)
HARDWARE = (
    Adapter(vendor="nvidia", architecture="ampere"),
    Adapter(vendor="intel", architecture="gen-12lp", description="Intel(R) Iris(R) Xe Graphics"),
    Adapter(vendor="apple", architecture="metal-3"),
)


@pytest.mark.parametrize("adapter", SOFTWARE, ids=str)
def test_shaders_on_the_cpu_are_software(adapter: Adapter) -> None:
    assert adapter.software
    assert str(adapter).endswith("(software)")


@pytest.mark.parametrize("adapter", HARDWARE, ids=str)
def test_a_gpu_is_hardware(adapter: Adapter) -> None:
    assert not adapter.software
    assert str(adapter).endswith("(hardware)")
