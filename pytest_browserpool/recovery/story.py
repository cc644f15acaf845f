"""The story of one recovery: its lines end, change their seat, and are read to people."""

from __future__ import annotations

import dataclasses

from pytest_browserpool.recovery.signals import Attempt, Faulted

Lines = tuple[Attempt, ...]


def closed(story: Lines, at: float, outcome: str, detail: str = "", part: str | None = None) -> Lines:
    """The story after the open lines of ``part`` (None: of all parts) ended; equal to ``story`` if there was none."""
    return tuple(
        dataclasses.replace(line, ended_at=at, outcome=outcome, detail=detail)
        if line.ended_at is None and part in (None, line.part)
        else line
        for line in story
    )


def reseated(story: Lines, number: int, key: str, browser: str) -> Lines:
    """The story when attempt ``number``, which is under way, took the seat ``key``."""
    return tuple(
        dataclasses.replace(line, key=key, browser=browser)
        if line.number == number and line.ended_at is None
        else line
        for line in story
    )


def echo(event: Faulted, number: int, key: str, browser: str) -> Attempt:
    """A line for a sign of a fault that no open line is about."""
    return Attempt(
        number=number if event.attempt is None else event.attempt,
        action="echo",
        key=key,
        browser=browser,
        began_at=event.at,
        ended_at=event.at,
        part=event.part,
        outcome=event.fault.kind,
        detail=event.detail,
    )


def in_words(line: Attempt) -> str:
    """One line as a test's author reads it."""
    detail = f" ({line.detail.splitlines()[0]})" if line.detail else ""
    return f"{line.number}. {line.action} in {line.key}: {line.outcome or 'under way'}{detail}"
