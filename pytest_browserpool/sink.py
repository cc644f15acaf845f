"""What the scheduler asks of the run: to send a directive, to note a decision, to report a test that no node will."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_browserpool import link, outcomes
from pytest_browserpool.link import Message
from pytest_browserpool.placement import events
from pytest_browserpool.report.crashed import close_crashed_row
from pytest_browserpool.unrunnable import in_a_line, in_full, insisted, no_node
from pytest_browserpool.values import ModelNeeds

if TYPE_CHECKING:
    from pytest_browserpool.ledger import Ledger

FINISHED = "finished"
"""Why a node went that ended as it should."""


class RunSink:
    """``scheduler.Sink``, on the main thread.

    ``skip_missing``: a test that no node can run is skipped, not failed, unless ``chosen``, the browsers that the run is
    meant for, lacks one that it would take (``unrunnable.insisted``). ``down``: node → why it went. ``troubles``: node →
    why it has no browser at all, or nothing. ``warn`` tells the user.
    """

    def __init__(
        self,
        config: pytest.Config,
        ledger: Ledger,
        *,
        skip_missing: bool,
        chosen: Sequence[str],
        down: Mapping[str, str],
        troubles: Mapping[str, str],
        warn: Callable[[str], None],
    ) -> None:
        self._config, self._ledger, self._skip_missing = config, ledger, skip_missing
        self._chosen, self._down, self._troubles = chosen, down, troubles
        self.warn = warn
        self.scheduler: Any = None
        """Whose tests are reported: other plugins ask it for one of them once more."""

    @property
    def _dsession(self) -> Any:
        return self._config.pluginmanager.getplugin("dsession")

    def tell(self, node: Any, message: Message) -> None:
        link.send(node.browserpool_channel, message)

    def decided(self, command: events.Run) -> None:
        self._ledger.decision(command)

    def stopping(self) -> bool:
        return bool(self._dsession.shouldstop or self._dsession.shuttingdown)

    def replaces(self, node: Any) -> bool | None:
        if self._down.get(node.gateway.id) == FINISHED:
            return False
        dsession = self._dsession
        limit = dsession._max_worker_restart
        return True if limit is None or dsession._failed_nodes_count + 1 <= limit else None

    def unrunnable(self, test: str, needs: ModelNeeds | None, reasons: Sequence[str]) -> None:
        error = no_node(reasons, dict.fromkeys(trouble for trouble in self._troubles.values() if trouble))
        skip = self._skip_missing or (needs is not None and needs.on == "each")
        skip = skip and not insisted(needs, self._chosen, self.scheduler.browsers)
        self.publish(
            outcomes.skipped(test, in_a_line(error)) if skip else outcomes.failed(test, in_full(error))
        )

    def abandoned(self, test: str, nodes: Sequence[str], node: Any) -> None:
        lines = "\n".join(f"  {loss}" for loss in self._ledger.losses[test])
        text = f"lost with {len(nodes)} nodes, and not tried again:\n{lines}"
        reports = outcomes.failed(test, text, node=node, crashed=True)
        crash = reports[1]
        self._config.hook.pytest_handlecrashitem(crashitem=test, report=crash, sched=self.scheduler)
        if crash.failed:
            self.publish(reports)
        else:  # another plugin had it marked pending again, and made this a "rerun"
            close_crashed_row(crash)
            self.publish([crash])

    def publish(self, reports: Sequence[pytest.TestReport]) -> None:
        """Report a test that no node reports, as if one had; counts for ``--maxfail``."""
        for report in reports:
            self._config.hook.pytest_runtest_logreport(report=report)
            if report.failed:
                self._dsession._handlefailures(report)
