"""The node's end of the link hears what the controller says, and that it is gone."""

from __future__ import annotations

from typing import Any

import execnet
from waiting import until

from pytest_browserpool.config import Settings
from pytest_browserpool.keywords import Words
from pytest_browserpool.link import WorkerLink


def test_a_node_hears_that_its_controller_is_gone() -> None:
    gateway = execnet.makegateway("popen//id=link-test")
    try:
        channel = gateway.remote_exec('channel.send({"kind": "retire"}); channel.receive()')
        heard: list[dict[str, Any]] = []
        gone: list[bool] = []
        link = WorkerLink(channel=channel, settings=Settings(rootdir=".", db=""), words=Words(), node="gw0")
        link.listen(heard.append, lambda: gone.append(True))
        until(lambda: heard == [{"kind": "retire"}], "the directive did not come")
        assert not gone
        gateway._io.kill()
        until(lambda: gone == [True], "nobody said that the other end is gone")
    finally:
        gateway.exit()
        gateway._group.terminate(timeout=5.0)
