"""Which machine this process runs on, whatever it calls itself."""

from __future__ import annotations

import functools
import socket
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""Drawn by the kernel when it starts (``random(4)``): containers on one machine share it, and with it their cores; two
machines that are both called ``localhost`` do not."""


@functools.cache
def identity() -> str:
    """The same for all processes that share this machine's cores: the kernel's boot id, or the host name where there
    is none."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return socket.gethostname()
