"""Parts of a model of which a backend ran nothing when its shards were opened: kept, so that no later cut tries them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

from pytest_browserpool.artefacts import pins
from pytest_browserpool.browsers import identity
from pytest_browserpool.errors import BackendRefused
from pytest_browserpool.values import ModelNeeds, Plain

if TYPE_CHECKING:
    from pytest_browserpool.node.cutting import Seat
    from pytest_browserpool.node.node import Node

KIND = "refusals"
"""Where they lie in the cache."""


@dataclass(frozen=True, kw_only=True)
class Refusal(Plain):
    """A segment on a backend, and that onnxruntime placed none of its nodes there."""

    browser: str
    backend: str
    nodes: tuple[int, ...]
    """Positions in the model's node list."""
    names: str
    """For people, the first few."""
    placed: Mapping[str, int]
    """Nodes per provider, as the placement log of that session has them."""
    node: str = ""
    """Of the run, that lent the browser; empty: the test's own."""

    def __str__(self) -> str:
        return (
            f"{self.backend} in {self.browser} got no node of {self.names}: "
            f"onnxruntime placed {dict(self.placed) or 'nothing'}"
        )


class SegmentsRefused(BackendRefused):
    """Segments of a cut whose browsers' backends run nothing of them: another cut may do."""

    refusals: tuple[Refusal, ...] = ()

    @classmethod
    def of(cls, refusals: Sequence[Refusal], label: str) -> SegmentsRefused:
        """The error that tells of all of them."""
        lines = "\n    ".join(map(str, refusals))
        made = cls(
            f"a shard's backend runs nothing of its part:\n    {lines}"
            if len(refusals) > 1
            else str(refusals[0]),
            where=label,
            remedy="another backend, or fewer shards",
        )
        made.refusals = tuple(refusals)
        return made


_known: dict[str, tuple[Refusal, ...]] = {}
"""As this process read or met them: a run keeps to its cuts, whatever other runs meet meanwhile."""


class Refusals:
    """What is known of one model, whose identity is ``model``, opened as ``needs`` says.

    What decides on a placement is in the name of a record: the content of the model, the browser with its version,
    switches and drivers, the build of onnxruntime-web, the backend, the session options and the fixed shapes.
    """

    def __init__(self, node: Node, needs: ModelNeeds, model: str) -> None:
        self._node, self._model = node, model
        shapes = sorted((name, list(dims)) for name, dims in (needs.input_shapes or {}).items())
        told = json.dumps([shapes, needs.session_options or {}], sort_keys=True, default=str)
        self._opened = hashlib.sha256(told.encode()).hexdigest()[:8]
        self.met: list[Refusal] = []
        """Those of this opening."""

    def on(self, browser: str, backend: str, node: str = "") -> tuple[Refusal, ...]:
        """What the backend refused there, in this run or an earlier one; where another node lends it, in this run."""
        name = self._name(browser, backend, node)
        if node:
            return _known.get(name, ())
        if name not in _known:
            kept = pins.default_cache().read_json(KIND, name).get("refused", [])
            try:
                _known[name] = tuple(Refusal.from_plain(each) for each in kept)
            except (
                TypeError,
                ValueError,
                AttributeError,
                KeyError,
            ):  # damaged: it is met again, and written anew
                _known[name] = ()
        return _known[name]

    def nodes(self, seat: Seat) -> frozenset[int]:
        """Those that none of the seat's backends runs: what one refuses may go to the next."""
        each = (
            frozenset(n for refusal in self.on(seat.browser, backend, seat.node) for n in refusal.nodes)
            for backend in seat.backends
        )
        return reduce(frozenset.intersection, each)

    def of(self, seats: Sequence[Seat]) -> list[Refusal]:
        """All that is known of these seats' browsers."""
        ways = dict.fromkeys(
            (seat.browser, backend, seat.node) for seat in seats for backend in seat.backends
        )
        return [refusal for way in ways for refusal in self.on(*way)]

    def learn(self, refusals: Sequence[Refusal]) -> None:
        """Keeps what was just met, for this run and later ones."""
        for new in refusals:
            self.met.append(new)
            name = self._name(new.browser, new.backend, new.node)
            _known[name] = known = (*self.on(new.browser, new.backend, new.node), new)
            if new.node:  # its machine's switches and drivers are not known here
                continue
            pins.default_cache().write_json(KIND, name, {"refused": [each.to_plain() for each in known]})

    def _name(self, browser: str, backend: str, node: str) -> str:
        if node:
            return f"{node}-{browser}-{backend}-{self._model[:16]}-{self._opened}"
        installed = next(each for each in self._node.installed if each.name == browser)
        known = self._node.capabilities().browser(browser)
        version = known.version if known is not None else ""
        made = f"{identity.fingerprint(installed, self._node.settings)}-{version}-{backend}"
        return f"{made}-{self._model[:16]}-{self._opened}".replace("/", "_").replace(" ", "_")
