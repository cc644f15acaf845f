"""Hosts as network namespaces of this machine, with addresses, host names and sshd of their own, and pytest run
among them.

Nothing leaves the namespaces: the bridge between them has one of its own, and so has the machine that pytest runs on.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pytest_browserpool.artefacts.cache import cache_root

NET = "10.231.77"
"""First three bytes of the addresses; they exist only inside the namespaces."""
ABSENT = "02:00:00:00:00:01"
"""A hardware address that nobody has: what is sent there is lost without a word."""
CONTROLLER = "desk"
DEADLINE = 240.0
"""Seconds for one run of pytest: they take five to thirty; more on a busy machine."""
NOT_NEEDED = ("cacheprovider", "rerunfailures", "playwright", "asyncio", "hypothesispytest", "timeout")
"""Plugins that the suites on the hosts do without: each node would import them, and rerunfailures fails there."""
TOOLS = ("ip", "ssh", "ssh-keygen", "unshare", "/usr/sbin/sshd")


def why_not() -> str:
    """Why namespaces cannot be had here; empty where they can."""
    if sys.platform != "linux":
        return f"network namespaces are Linux's; this is {sys.platform}"
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} not there: apt-get install iproute2 openssh-server openssh-client"
    probe = f"bpt{os.getpid()}"
    try:
        _do("ip", "netns", "add", probe)
    except subprocess.CalledProcessError as error:
        return f"no network namespace can be made: {error.stderr.strip()}"
    _do("ip", "netns", "del", probe)
    return ""


def _do(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    return done.stdout


@dataclass
class Host:
    """One namespace. ``home`` is its directory: HOME, cache, and the copy of the suite lie there."""

    name: str
    namespace: str
    address: str
    home: Path
    daemon: subprocess.Popen[bytes] | None = None

    @property
    def suite(self) -> Path:
        return self.home / "suite"

    @property
    def cache(self) -> Path:
        return self.home / "cache"

    @property
    def environment(self) -> dict[str, str]:
        return {"HOME": str(self.home), "BROWSERPOOL_CACHE": str(self.cache)}

    def inside(self, *command: str) -> list[str]:
        """``command`` run on this host, under its host name."""
        named = f'hostname {self.name} && exec "$@"'
        return ["ip", "netns", "exec", self.namespace, "unshare", "--uts", "sh", "-c", named, "sh", *command]

    def processes(self) -> list[int]:
        return [int(pid) for pid in _do("ip", "netns", "pids", self.namespace).split()]

    def busy(self) -> list[str]:
        """Command lines of what runs here beside sshd's own."""
        lines = []
        for pid in self.processes():
            with contextlib.suppress(OSError):
                lines.append(
                    Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
        return [line for line in lines if line and "sshd" not in line]


@dataclass
class Network:
    """A bridge with hosts on it."""

    root: Path
    tag: str
    hosts: dict[str, Host] = field(default_factory=dict)
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def switch(self) -> str:
        return f"bp{self.tag}sw"

    @property
    def ssh_config(self) -> Path:
        return self.root / "ssh_config"

    def build(self, names: tuple[str, ...]) -> None:
        _do("ip", "netns", "add", self.switch)
        _do("ip", "-n", self.switch, "link", "add", "bridge", "type", "bridge")
        _do("ip", "-n", self.switch, "link", "set", "bridge", "up")
        _do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.root / "user"))
        for number, name in enumerate((CONTROLLER, *names), start=1):
            self._add(name, number)
        for name in names:
            self._serve(self.hosts[name])
        self._client()

    def _add(self, name: str, number: int) -> None:
        host = Host(name, f"bp{self.tag}{name[0]}", f"{NET}.{number}", self.root / name)
        host.home.mkdir()
        self.hosts[name] = host
        _do("ip", "netns", "add", host.namespace)
        inside = ("ip", "-n", host.namespace)
        _do(*inside, "link", "add", "eth0", "type", "veth", "peer", "name", name, "netns", self.switch)
        _do(*inside, "address", "add", f"{host.address}/24", "dev", "eth0")
        _do(*inside, "link", "set", "eth0", "up")
        _do(*inside, "link", "set", "lo", "up")
        _do("ip", "-n", self.switch, "link", "set", name, "master", "bridge", "up")

    def _serve(self, host: Host) -> None:
        key = self.root / f"{host.name}.key"
        _do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
        config = self.root / f"{host.name}.sshd"
        environment = " ".join(f"{name}={value}" for name, value in host.environment.items())
        config.write_text(
            f"ListenAddress {host.address}\nHostKey {key}\nAuthorizedKeysFile {self.root}/user.pub\n"
            "StrictModes no\nUsePAM no\nPidFile none\nPasswordAuthentication no\nPermitRootLogin yes\n"
            f"SetEnv {environment}\n"
        )
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd wants it; Debian's service makes it
        log = (self.root / f"{host.name}.log").open("wb")
        command = host.inside("/usr/sbin/sshd", "-D", "-e", "-f", str(config))
        host.daemon = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self.started.append(host.daemon)
        log.close()
        with (self.root / "known_hosts").open("a") as known:
            known.write(f"{host.address} {key.with_suffix('.key.pub').read_text()}")

    def _client(self) -> None:
        hosts = "".join(f"Host {h.name}\n  HostName {h.address}\n" for h in self.hosts.values())
        self.ssh_config.write_text(
            f"{hosts}Host *\n  User root\n  IdentityFile {self.root}/user\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {self.root}/known_hosts\n  StrictHostKeyChecking yes\n  BatchMode yes\n"
        )

    @property
    def own_cache(self) -> dict[str, str]:
        """For a controller that uses this machine's real cache, where set-up put runtime and example models."""
        return {"BROWSERPOOL_CACHE": str(cache_root())}

    def tx(self, name: str, *more: str) -> str:
        """``--tx`` of a node on a host over ssh."""
        suite = self.hosts[name].suite if name in self.hosts else self.root / "nowhere"
        parts = {
            "ssh": name,
            "ssh_config": str(self.ssh_config),
            "chdir": str(suite),
            "python": sys.executable,
        }
        parts |= dict(item.split("=", 1) for item in more)
        return "--tx=" + "//".join(f"{key}={value}" for key, value in parts.items())

    @contextlib.contextmanager
    def socket_server(self, name: str) -> Iterator[str]:
        """execnet's socket server on a host; gives ``--tx`` of a node there."""
        host, port = self.hosts[name], 8888
        command = host.inside(
            sys.executable, "-u", "-m", "execnet.script.socketserver", f"{host.address}:{port}"
        )
        log = self.root / f"{name}.socket.log"
        with log.open("wb") as file:
            server = subprocess.Popen(
                command, cwd=host.home, env=os.environ | host.environment, stdout=file, stderr=file
            )
        try:
            deadline = time.monotonic() + 60
            while "Accept loop" not in log.read_text():
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            yield f"--tx=socket={host.address}:{port}//chdir={host.suite}"
        finally:
            server.kill()
            server.wait(10)

    def cut(self, name: str, *, no_route: bool = False) -> None:
        """Unplug a host's cable. Who dials it then hears nothing, or at once that there is no route to it.

        Left to itself the kernel does the first or the second, by what it remembers of the neighbour.
        """
        host, desk = self.hosts[name], ("ip", "-n", self.hosts[CONTROLLER].namespace)
        _do("ip", "-n", self.switch, "link", "set", name, "down")
        if no_route:
            _do(*desk, "route", "replace", "unreachable", f"{host.address}/32")
        else:
            _do(*desk, "neigh", "replace", host.address, "lladdr", ABSENT, "dev", "eth0", "nud", "permanent")

    def plug_in(self, name: str) -> None:
        """Undo :meth:`cut`; nothing where there is nothing to undo."""
        host, desk = self.hosts[name], ("ip", "-n", self.hosts[CONTROLLER].namespace)
        for command in (
            (*desk, "route", "del", "unreachable", f"{host.address}/32"),
            (*desk, "neigh", "del", host.address, "dev", "eth0"),
        ):
            with contextlib.suppress(subprocess.CalledProcessError):
                _do(*command)
        _do("ip", "-n", self.switch, "link", "set", name, "up")

    def end(self) -> None:
        """End every process in the namespaces, then the namespaces."""
        for host in self.hosts.values():
            with contextlib.suppress(subprocess.CalledProcessError):
                for pid in host.processes():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        for process in self.started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
        for name in (*(host.namespace for host in self.hosts.values()), self.switch):
            with contextlib.suppress(subprocess.CalledProcessError):
                _do("ip", "netns", "del", name)


@contextlib.contextmanager
def network(root: Path, names: tuple[str, ...]) -> Iterator[Network]:
    """The hosts ``names`` and the one that pytest runs on; gone at the end, however it comes."""
    made = Network(root, format(os.getpid() % 0xFFFF, "x"))
    try:
        made.build(names)
        yield made
    finally:
        made.end()


@dataclass
class Run:
    """pytest on the controller's host, in a directory of its own, until it ends."""

    network: Network
    directory: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def _log(self) -> Path:
        return self.directory / "output.txt"

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def start(
        self, *arguments: str, cwd: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        desk = self.network.hosts[CONTROLLER]
        without = (argument for name in NOT_NEEDED for argument in ("-p", f"no:{name}"))
        command = desk.inside(
            sys.executable, "-m", "pytest", *without, "--browserpool", *arguments,
            f"--junitxml={self.directory / 'junit.xml'}",
        )  # fmt: skip
        # without compiled modules each start takes seconds more: pytest rewrites a plugin's assertions as it compiles
        dropped = ("PYTEST_", "COV_", "BROWSERPOOL_", "PYTHONDONTWRITEBYTECODE")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
        inherited |= environment or {}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=cwd or self.directory,
                env=inherited,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_for(self, text: str, timeout: float = 90.0) -> None:
        """Until ``text`` is in the output."""
        deadline = time.monotonic() + timeout
        while text not in self.output:
            assert self.process is not None
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.1)

    def end(self, timeout: float = DEADLINE) -> int:
        """Its exit status."""
        assert self.process is not None
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"pytest did not end within {timeout:g} s:\n{self.output}") from None
        finally:
            self.stop()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
