"""A process that outlives its node by a moment: waits for the end of its pipe, then ends the node's browsers.

Started by ``processes.Workdir``. ``kill -9`` of the node closes the pipe like any other end does.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pytest_browserpool.browsers.processes import clean, ignore_interrupts


def main() -> None:
    ignore_interrupts()
    token, path = sys.argv[1], Path(sys.argv[2])
    sys.stdin.buffer.read()  # blocks for the life of the node; its owner's end is this wait's deadline
    clean(token, path)


if __name__ == "__main__":
    main()
