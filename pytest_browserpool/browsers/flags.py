"""Which switches and preferences each browser is started with, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pytest_browserpool.browsers.code_cache import HOST

LIST_SWITCHES = (
    "--enable-features",
    "--disable-features",
    "--enable-dawn-features",
    "--disable-dawn-features",
    "--host-resolver-rules",
)

CHROMIUM_FLAGS: tuple[str, ...] = (
    "--enable-unsafe-webgpu",  # WebGPU is off by default on Linux and on software adapters
    "--enable-features=WebMachineLearningNeuralNetwork",  # WebNN
    "--disable-quic",  # the four below: a quiet start, nothing is fetched that no test asked for
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-background-timer-throttling",  # model pages are never in the foreground
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
)
ROOT_FLAGS: tuple[str, ...] = ("--no-sandbox",)  # Chromium refuses to start as root with its sandbox

EXTRA_FLAGS: Mapping[str, tuple[str, ...]] = {
    "headless-shell": (
        # its package ships SwiftShader beside it, and there may be no other adapter
        "--use-webgpu-adapter=swiftshader",
        "--use-angle=swiftshader",
        # pages composed with ANGLE's SwiftShader leave a shared memory segment of its GPU process open, each page one more
        "--disable-gpu-compositing",
    ),
}

SOFTWARE_FLAGS: tuple[str, ...] = (
    # WGSL's workgroup memory begins zeroed. Where the driver offers it Chromium leaves that to Vulkan, and SwiftShader makes
    # one store of each element, thousands a shader, whose compilation was five sixths of a first run. Without the extension
    # the shader zeroes its memory itself, in a loop: the same answers.
    "--disable-dawn-features=use_vulkan_zero_initialize_workgroup_memory_extension",
)
"""Only for a software adapter: on a GPU shaders are translated as in everybody's Chromium."""

FIREFOX_PREFS: Mapping[str, Any] = {
    "dom.webgpu.enabled": True,
    "gfx.webgpu.ignore-blocklist": True,  # lavapipe is on the blocklist
    "dom.ipc.processPrelaunch.enabled": False,  # spare content processes cost memory that models need
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "app.update.enabled": False,
    # Playwright has Firefox keep the bodies of responses, 200 MB in its main process, models among them; the size that it
    # asks for one body (20 MB) is the least that Firefox takes for all
    "remote.network.maxTotalDataSize": 20_000_000,
    "dom.timeout.enable_budget_timer_throttling": False,  # model pages are never in the foreground
    "dom.min_background_timeout_value": 4,
}


def named_host(port: int) -> str:
    """The switch that leads ``HOST`` to the node's own server: under an address that stays the same from run to run a browser
    finds again what it compiled."""
    return f"--host-resolver-rules=MAP {HOST} 127.0.0.1:{port}"


def switches(name: str, port: int, *, hardware: bool, root: bool, own: Iterable[str] = ()) -> list[str]:
    """All of the Chromium ``name``, which may reach the node's server at ``port`` by name.

    ``hardware``: its WebGPU adapter is known to be a GPU. ``root``: the node runs as that. ``own``: the user's.
    """
    return merge_flags(
        CHROMIUM_FLAGS,
        () if hardware else SOFTWARE_FLAGS,
        ROOT_FLAGS if root else (),
        EXTRA_FLAGS.get(name, ()),
        (named_host(port),),
        own,
    )


def merge_flags(*groups: Iterable[str]) -> list[str]:
    """All flags once, in order; lists are joined, because Chromium takes the last switch of a name only.

    >>> merge_flags(["--enable-features=A", "--x"], ["--enable-features=B,A"])
    ['--x', '--enable-features=A,B']
    """
    plain: dict[str, None] = {}
    lists: dict[str, dict[str, None]] = {}
    for flag in (f for group in groups for f in group):
        switch, _, value = flag.partition("=")
        if switch in LIST_SWITCHES:
            lists.setdefault(switch, {}).update(dict.fromkeys(v for v in value.split(",") if v))
        else:
            plain[flag] = None
    return [*plain, *(f"{switch}={','.join(values)}" for switch, values in lists.items())]
