"""Our scheduler under xdist on suites that need no browser: each outcome once, fixtures right, stops at
once."""

from __future__ import annotations

import itertools
from collections import Counter

from acceptance_support import Runner

MIXED = """
    import pytest

    @pytest.mark.parametrize("i", range(12))
    def test_pass(i): pass

    def test_fail(): assert 0
    def test_skip(): pytest.skip("not now")

    @pytest.mark.xfail
    def test_xfail(): assert 0

    @pytest.fixture
    def broken(): raise RuntimeError("broken fixture")
    def test_error(broken): pass

    @pytest.fixture
    def breaks():
        yield
        raise RuntimeError("broken teardown")
    def test_teardown_error(breaks): pass
"""


def test_every_outcome_is_reported_once_everywhere(run: Runner) -> None:
    run.suite(test_mixed=MIXED)
    done = run("-n", "2")
    assert done.terminal == {"passed": 13, "failed": 1, "skipped": 1, "xfailed": 1, "errors": 2}
    junit = Counter(kind for kinds in done.junit.values() for kind in kinds)
    assert junit == {"passed": 12, "failure": 1, "skipped": 2, "error": 2}
    assert done.result.ret == 1


def test_our_scheduler_is_in_charge_and_says_so(run: Runner) -> None:
    run.suite(test_mixed="def test_one(): pass")
    assert "BrowserPoolScheduling" in run("-n", "1", "-v").output


def test_a_scheduler_that_groups_tests_stays_the_users(run: Runner) -> None:
    run.suite(test_mixed="def test_one(): pass")
    assert "LoadFileScheduling" in run("-n", "1", "--dist", "loadfile", "-v").output


def test_off_keeps_xdists_own(run: Runner) -> None:
    run.suite(test_mixed=MIXED)
    done = run("-n", "2", "--browserpool-scheduler", "off", "-v")
    assert "LoadScheduling" in done.output
    assert done.terminal["passed"] == 13


def test_tx_alone_is_enough(run: Runner) -> None:
    run.suite(test_mixed="import os\ndef test_one(): assert os.environ['PYTEST_XDIST_WORKER'] == 'gw0'")
    assert run("--tx", "popen").terminal == {"passed": 1}


FIXTURES = """
    import os, pathlib, pytest

    LOG = pathlib.Path(__file__).with_name("log-" + os.environ.get("PYTEST_XDIST_WORKER", "main"))

    def note(line):
        with LOG.open("a") as file:
            file.write(line + "\\n")

    @pytest.fixture(scope="session")
    def session():
        note("+session")
        yield
        note("-session")

    @pytest.fixture(scope="module")
    def module(session, request):
        note("+module " + request.module.__name__)
        yield
        note("-module " + request.module.__name__)

    @pytest.fixture(scope="class", params=["x", "y"])
    def cls(module, request):
        note("+class " + request.param)
        yield
        note("-class " + request.param)

    @pytest.fixture
    def function(cls):
        note("+function")
        yield
        note("-function")
"""

NESTED = """
    from conftest import note

    class TestA:
        def test_1(self, function): note("test A1")
        def test_2(self, function): note("test A2")

    class TestB:
        def test_1(self, function): note("test B1")

    def test_plain(module): note("test plain")
"""


def test_fixtures_of_every_scope_are_torn_down_in_order(run: Runner) -> None:
    run.suite(conftest=FIXTURES, test_one=NESTED, test_two=NESTED)
    done = run("-n", "2")
    assert done.terminal == {"passed": 14}
    logs = sorted(done.directory.glob("log-gw*"))
    assert logs
    for log in logs:
        assert_nested(log.read_text().split("\n")[:-1])


def assert_nested(lines: list[str]) -> None:
    """Each teardown answers the latest set-up that is still open, nothing stays open, and sessions begin
    once."""
    stack: list[str] = []
    for line in lines:
        if line.startswith("+"):
            stack.append(line[1:])
        elif line.startswith("-"):
            assert stack.pop() == line[1:], lines
    assert stack == []
    assert lines.count("+session") == 1


def test_an_error_of_a_wider_fixture_is_the_last_tests_and_reported_once(run: Runner) -> None:
    suite = """
        import pytest
        @pytest.fixture(scope="module")
        def module():
            yield
            print("from the teardown")
            raise RuntimeError("broken module teardown")
        def test_one(module): pass
        def test_two(module): pass
    """
    run.suite(test_a=suite, test_b="def test_other(): pass")
    done = run("-n", "1")
    assert done.terminal == {"passed": 3, "errors": 1}
    assert "broken module teardown" in done.output
    assert "from the teardown" in done.output
    assert sorted(len(kinds) for kinds in done.junit.values()) == [1, 1, 1]
    assert sorted(kind for kinds in done.junit.values() for kind in kinds) == ["error", "passed", "passed"]


def test_x_stops_at_once(run: Runner) -> None:
    run.suite(
        test_many="""
        import pytest, time
        @pytest.mark.parametrize("i", range(40))
        def test_many(i):
            time.sleep(0.1)
            assert i != 0
    """
    )
    done = run("-n", "2", "-x")
    assert done.terminal.get("failed") == 1
    assert done.terminal.get("passed", 0) <= 3
    assert done.result.ret != 0


WATCHED = """
    import pytest

    ORDER = []

    @pytest.hookimpl(optionalhook=True, trylast=True)
    def pytest_testnodeready(node):
        channel = node.browserpool_channel
        send = channel.send

        def watched(message):
            if message["kind"] == "run":
                ORDER.append(f"sent {message['index']}")
            send(message)

        channel.send = watched

    def pytest_runtest_logreport(report):
        if report.when == "call":
            ORDER.append(f"{report.outcome} {report.nodeid[-2]}")

    def pytest_terminal_summary(terminalreporter):
        terminalreporter.write_line("order: " + ", ".join(ORDER))
"""


def test_a_node_has_its_next_test_before_reporters_hear_of_one_that_passed(run: Runner) -> None:
    run.suite(
        conftest=WATCHED,
        test_six="""
        import pytest
        @pytest.mark.parametrize("i", range(6))
        def test_it(i): assert i != 3
    """,
    )
    done = run("-n", "1")
    (line,) = [line for line in done.output.splitlines() if line.startswith("order: ")]
    order = line.removeprefix("order: ").split(", ")
    ran = [word for word in order if not word.startswith("sent")]
    assert sorted(ran) == ["failed 3", *(f"passed {i}" for i in (0, 1, 2, 4, 5))]
    for before, after in itertools.pairwise(ran):
        sent, told = order.index(f"sent {after[-1]}"), order.index(before)
        assert (sent < told) == before.startswith("passed"), line


def test_maxfail_counts_over_all_nodes(run: Runner) -> None:
    run.suite(
        test_many="""
        import pytest, time
        @pytest.mark.parametrize("i", range(40))
        def test_many(i):
            time.sleep(0.05)
            assert 0
    """
    )
    done = run("-n", "2", "--maxfail", "3")
    assert 3 <= done.terminal["failed"] <= 4


def test_collection_errors_are_reported_and_the_rest_runs(run: Runner) -> None:
    run.suite(test_good="def test_one(): pass", test_bad="import no_such_module_anywhere")
    done = run("-n", "2")
    assert done.terminal == {"passed": 1, "errors": 1}


def test_nodes_may_collect_different_tests(run: Runner) -> None:
    run.suite(
        test_uneven="""
        import os, pytest
        WORKER = os.environ["PYTEST_XDIST_WORKER"]

        @pytest.mark.parametrize("i", range(4))
        def test_everywhere(i): pass

        if WORKER == "gw0":
            def test_only_0(): assert WORKER == "gw0"
        else:
            def test_only_1(): assert WORKER == "gw1"
    """
    )
    done = run("-n", "2")
    assert done.terminal == {"passed": 6}
    assert done.once() == {"passed": 6}


def test_no_tests_at_all(run: Runner) -> None:
    run.suite(test_none="x = 1")
    assert run("-n", "2", reports=False).result.ret == 5


def test_without_n_it_is_one_process(run: Runner) -> None:
    run.suite(test_mixed=MIXED)
    done = run()
    assert done.terminal == {"passed": 13, "failed": 1, "skipped": 1, "xfailed": 1, "errors": 2}


def test_learning_without_a_scheduler_is_said_to_do_nothing(run: Runner) -> None:
    run.suite(test_x="def test_x(): pass")
    alone = run("--browserpool-learn")
    assert "nothing is learned in this run: add -n or --tx" in alone.output
    ours = run("--browserpool-learn", "-n", "1")
    assert "nothing is learned" not in ours.output
    assert ours.terminal == {"passed": 1}


LIMITED = """
    import pathlib, time
    import pytest

    LOG = pathlib.Path(__file__).with_name("log")

    def logged(name, seconds):
        began = time.time()
        time.sleep(seconds)
        with LOG.open("a") as log:
            log.write(f"{name} {began} {time.time()}\\n")

    @pytest.mark.parametrize("i", range(8))
    @pytest.mark.model(concurrency_key=("card", 2))
    def test_card(i, browser_pool): logged("card", 0.4)

    @pytest.mark.parametrize("i", range(4))
    @pytest.mark.model(concurrency_key="disk")
    def test_disk(i, browser_pool): logged("disk", 0.4)
"""


def test_no_more_tests_of_a_key_run_at_once_than_it_allows(run: Runner) -> None:
    """Over three nodes: two at once of one key, one of the other, and both keys beside each other."""
    run.suite(test_keys=LIMITED)
    done = run("-n", "3", "--browserpool-browsers=headless-shell")  # no test launches one: less to look for
    assert done.terminal == {"passed": 12}
    spans = [line.split() for line in (run.pytester.path / "log").read_text().splitlines()]
    moments = [float(began) for _, began, _ in spans]

    def most(*names: str) -> int:
        return max(sum(n in names and float(b) <= at < float(e) for n, b, e in spans) for at in moments)

    assert most("card") <= 2, spans
    assert most("disk") <= 1, spans
    assert most("card", "disk") >= 2, spans  # else nothing was limited


def test_the_scheduler_hears_of_a_start_only_where_it_would_be_wrong_about_it(run: Runner) -> None:
    conftest = """
        import pytest, time

        def pytest_configure(config):
            from pytest_browserpool.scheduler import BrowserPoolScheduling
            heard = BrowserPoolScheduling.started

            def started(self, node, index):
                print(f"heard of the start of {self._members[node].collection[index]}")
                heard(self, node, index)

            BrowserPoolScheduling.started = started

        @pytest.fixture(scope="module")
        def slow_to_leave():
            yield
            time.sleep(0.3)
    """
    run.suite(
        conftest=conftest,
        test_a="def test_one(slow_to_leave): pass\ndef test_two(slow_to_leave): pass",
        test_b="def test_after(): pass\ndef test_last(): pass",
    )
    output = run("-n", "1", "-s").output
    heard = [line.split("::")[-1] for line in output.splitlines() if "heard of the start of" in line]
    assert heard == ["test_after"]
