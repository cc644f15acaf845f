"""One shard of a model: where it runs, and its sessions there."""

from __future__ import annotations

from dataclasses import dataclass, field

from pytest_browserpool.browsers.choice import Candidate
from pytest_browserpool.browsers.pool import Loaded
from pytest_browserpool.errors import Fault, PageCrashed, PageHung
from pytest_browserpool.node.cutting import Seat


@dataclass
class Lane:
    """One shard: where it runs now, and at level high where its copy waits."""

    seat: Seat
    stages: tuple[int, ...]
    sessions: dict[int, Loaded] = field(default_factory=dict)
    """By segment."""
    copies: dict[int, Loaded] = field(default_factory=dict)
    load_ms: float = 0.0
    sent: int = 0
    """Commands that its page has not answered."""
    told: Fault | None = None
    """A hang of which earlier requests died: it ended them, and not the next one."""

    def begin(self) -> None:
        """The next request comes, and no other is under way."""
        lost = [each.page.lost for each in self.sessions.values()]
        self.told = next((fault for fault in lost if isinstance(fault, PageHung)), None)

    @property
    def held(self) -> list[Loaded]:
        return [*self.sessions.values(), *self.copies.values()]

    @property
    def backend(self) -> str:
        """What the shard really runs on; joined with "+" where its segments differ."""
        return "+".join(dict.fromkeys(loaded.session.key.backend for loaded in self.sessions.values()))

    @property
    def threads(self) -> int:
        """Of WebAssembly in its page, as the page says; the most where its segments are in different pages."""
        return max((loaded.page.threads for loaded in self.sessions.values()), default=0)

    @property
    def where(self) -> Candidate:
        return Candidate(self.seat.browser, self.backend or self.seat.backends[0])

    def ready(self, index: int) -> Loaded:
        """The session of a segment, or the fault that cost it."""
        loaded = self.sessions[index]
        if loaded.page.lost is not None:
            raise loaded.page.lost
        if loaded.session.key not in loaded.page.sessions:
            raise PageCrashed(f"the session of {loaded.session.label} is gone with its page")
        return loaded
