"""Seats, browsers and pages that carry out the instructions of the machine and check each of them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from pytest_browserpool.recovery import signals as s
from pytest_browserpool.recovery.choice import Plan
from pytest_browserpool.recovery.signals import Candidate

CHROMIUM = Candidate(key="chromium", browser="chromium", family="chrome")
FIREFOX = Candidate(key="firefox", browser="firefox", family="firefox")
SHELL = Candidate(key="shell", browser="headless-shell", family="chrome")
SECOND = Candidate(key="chromium#2", browser="chromium", family="chrome", standby=True)
ALL = (CHROMIUM, FIREFOX, SHELL, SECOND)


@dataclass
class World:
    """What is alive. Each browser process and each page has a number of its own and dies once."""

    plan: Plan
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    browsers: dict[str, int] = field(default_factory=dict)
    pages: dict[str, int] = field(default_factory=dict)
    """Seat → the page that holds the model."""
    left: set[str] = field(default_factory=set)
    orders: list[s.Order] = field(default_factory=list)

    def begin(self, keys: list[str]) -> None:
        for key in keys:
            self._new_page(key)
        for candidate in self.plan.candidates:
            if candidate.standby:
                self._new_page(candidate.key)

    def _new_page(self, key: str) -> None:
        self.browsers.setdefault(key, next(self.numbers))
        self.pages[key] = next(self.numbers)

    def carry_out(self, out: list[s.Instruction]) -> s.Instruction | None:
        """Do what ``out`` says; returns the last instruction, which is the one to answer."""
        for instruction in out:
            match instruction:
                case s.DropPage(key=key):
                    self.pages.pop(key, None)
                case s.RetireBrowser(key=key):
                    self.pages.pop(key, None)
                    self.browsers.pop(key, None)
                case s.Restore(by=order):
                    self._order(order)
                case s.Order():
                    self._order(instruction)
                case _:
                    pass
        return out[-1] if out else None

    def _order(self, order: s.Order) -> None:
        self.orders.append(order)
        key = order.key
        assert order.seconds >= 0
        match order:
            case s.Retry():
                assert key in self.pages, f"a retry on {key}, whose page is gone"
            case s.ReloadModel():
                assert key in self.browsers, f"a reload on {key}, whose browser is gone"
                self._new_page(key)
            case s.RestartBrowser():
                self.browsers.pop(key, None)
                self._new_page(key)
            case s.Migrate(exclude=exclude):
                assert key not in exclude
                self._new_page(key)
            case s.UseStandby():
                assert self.plan.candidate(key).standby
                assert key in self.pages, f"the standby on {key} is gone"
            case s.RunOnCpu():
                assert self.plan.fallback == "cpu"
                assert order.on_cpu
                self._new_page(key)
