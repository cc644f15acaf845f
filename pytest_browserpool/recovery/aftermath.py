"""What each fault leaves behind, and so what must never be tried after it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pytest_browserpool import errors
from pytest_browserpool.errors import Fault
from pytest_browserpool.recovery.signals import DropPage, Instruction, RetireBrowser, Step


class Lost(StrEnum):
    """How much is gone for good."""

    NOTHING = "nothing"
    PAGE = "page"
    BROWSER = "browser"


@dataclass(frozen=True)
class Aftermath:
    """What is ``lost`` after a fault, the steps that are ``forbidden`` where it happened, and why."""

    lost: Lost
    forbidden: frozenset[Step]
    why: str


_IN_PAGE = frozenset({Step.RETRY})
_IN_BROWSER = frozenset({Step.RETRY, Step.RELOAD})

AFTERMATHS: dict[type[Fault], Aftermath] = {
    errors.ConnectionLost: Aftermath(
        Lost.NOTHING, frozenset(), "the page may be sound: it dials again, and its session is still warm"
    ),
    errors.SessionRefused: Aftermath(
        Lost.PAGE, _IN_PAGE, "the page is poisoned: it refuses every later session"
    ),
    errors.OutOfMemory: Aftermath(Lost.PAGE, _IN_PAGE, "wasm memory never shrinks: only a new page has room"),
    errors.DeviceLost: Aftermath(
        Lost.PAGE, _IN_PAGE, "onnxruntime-web keeps the dead device, and the second run on it hangs the page"
    ),
    errors.PageHung: Aftermath(
        Lost.PAGE, _IN_PAGE, "its main thread never comes back, and runs of one page must not overlap"
    ),
    errors.PageCrashed: Aftermath(Lost.PAGE, _IN_PAGE, "its process is gone"),
    errors.LaunchFailed: Aftermath(Lost.BROWSER, _IN_BROWSER, "there is no browser to load anything in"),
    errors.BrowserCrashed: Aftermath(
        Lost.BROWSER, _IN_BROWSER, "its process is gone, and every page with it"
    ),
}
"""For each fault of the taxonomy."""

_UNKNOWN = Aftermath(Lost.BROWSER, _IN_BROWSER, "a fault of an unknown kind: nothing there is trusted")


def aftermath(fault: type[Fault]) -> Aftermath:
    """What ``fault`` leaves behind. A subclass counts as its nearest known parent."""
    return next((AFTERMATHS[kind] for kind in fault.__mro__ if kind in AFTERMATHS), _UNKNOWN)


def dropped(key: str, fault: type[Fault]) -> list[Instruction]:
    """The instructions that rid seat ``key`` of what ``fault`` made unusable there."""
    after = aftermath(fault)
    match after.lost:
        case Lost.BROWSER:
            return [RetireBrowser(key=key, reason=f"{fault.kind}: {after.why}")]
        case Lost.PAGE:
            return [DropPage(key=key, reason=f"{fault.kind}: {after.why}")]
        case Lost.NOTHING:
            return []


def markdown() -> str:
    """``AFTERMATHS`` as a Markdown table; the one in docs/recovery.md is this text."""
    lines = ["| fault | what is gone | forbidden there | why |", "|---|---|---|---|"]
    for kind, after in AFTERMATHS.items():
        forbidden = ", ".join(step for step in Step if step in after.forbidden) or "nothing"
        lines.append(f"| {kind.kind} | {after.lost} | {forbidden} | {after.why} |")
    return "\n".join(lines)
