"""What is a fault and what is not."""
# ruff: noqa: E501 - messages as they were seen, one to a line

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_browserpool import errors
from pytest_browserpool.browsers.failures import SEVERITY, classify, diagnose, worst
from pytest_browserpool.browsers.symptoms import RULES, Observation, Origin, Phase, Rule
from pytest_browserpool.errors import BrowserPoolError, Fault
from pytest_browserpool.recovery.aftermath import AFTERMATHS, Lost, aftermath
from pytest_browserpool.recovery.signals import Step

P, E, W, R, D, X, T = (
    Origin.PLAYWRIGHT,
    Origin.EVENT,
    Origin.WEBSOCKET,
    Origin.RUNTIME,
    Origin.DEVICE,
    Origin.EXIT,
    Origin.DEADLINE,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.example[:40])
def test_each_rule_is_the_one_that_finds_its_example(rule: Rule) -> None:
    for origin, phase in itertools.product(rule.origins, rule.phases or [Phase.LOAD, Phase.RUN]):
        found = diagnose(Observation(origin=origin, text=rule.example, phase=phase))
        assert (found.error, found.reason) == (rule.error, rule.reason)


FAULTS: list[tuple[type[Fault], Observation]] = [
    # a killed browser, as Chromium and Firefox show it
    (errors.BrowserCrashed, Observation(origin=E, text="disconnected")),
    (errors.BrowserCrashed, Observation(origin=P, text="Page.evaluate: Target page, context or browser has been closed", browser_alive=False)),
    (errors.BrowserCrashed, Observation(origin=X, text="browser", code=-9)),
    (errors.BrowserCrashed, Observation(origin=X, text="driver", code=-9)),
    # a killed renderer: Chromium says so, Firefox does not, and opens no page any more
    (errors.PageCrashed, Observation(origin=E, text="targetCrashed")),
    (errors.PageCrashed, Observation(origin=P, text="Page.evaluate: Target crashed ")),
    (errors.PageCrashed, Observation(origin=P, text="Execution context was destroyed, most likely because of a navigation.")),
    (errors.PageCrashed, Observation(origin=X, text="renderer", code=-9)),
    (errors.BrowserCrashed, Observation(origin=P, text="Browser.new_page: Target page, context or browser has been closed", phase=Phase.BROWSER)),
    # a stopped browser answers nothing; a stopped GPU process leaves JavaScript alive
    (errors.BrowserCrashed, Observation(origin=T, phase=Phase.BROWSER)),
    (errors.DeviceLost, Observation(origin=T, phase=Phase.GPU_PING)),
    (errors.PageHung, Observation(origin=T, phase=Phase.RUN)),
    (errors.PageHung, Observation(origin=T, phase=Phase.LOAD)),
    (errors.PageHung, Observation(origin=T, phase=Phase.PING)),
    (errors.LaunchFailed, Observation(origin=T, phase=Phase.LAUNCH)),
    (errors.LaunchFailed, Observation(origin=X, text="browser", code=1, phase=Phase.LAUNCH)),
    (errors.LaunchFailed, Observation(origin=P, text="BrowserType.launch: Target page, context or browser has been closed", phase=Phase.LAUNCH)),
    # the GPU
    (errors.DeviceLost, Observation(origin=D, text="unknown")),
    (errors.DeviceLost, Observation(origin=D, text="destroyed")),
    (errors.DeviceLost, Observation(origin=R, text="failed to call OrtRun(). ERROR_CODE: 1, ERROR_MESSAGE: Failed to create a WebGPU compute pipeline: A valid external Instance reference no longer exists.")),
    (errors.DeviceLost, Observation(origin=R, text="AbortError: Failed to execute 'mapAsync' on 'GPUBuffer': Device is lost")),
    # memory
    (errors.OutOfMemory, Observation(origin=R, text="std::bad_alloc")),
    (errors.OutOfMemory, Observation(origin=R, text="Can't create a session. failed to allocate a buffer of size 50000000.")),
    (errors.OutOfMemory, Observation(origin=R, text="InternalError: allocation size overflow")),
    (errors.OutOfMemory, Observation(origin=R, text="WebGPU device error(2): Out of memory")),
    (errors.OutOfMemory, Observation(origin=R, text="ERROR_CODE: 6, ERROR_MESSAGE: Failed to allocate memory for requested buffer of size 4294967296")),
    (errors.OutOfMemory, Observation(origin=R, text="RangeError: WebAssembly.Memory.grow(): could not allocate memory")),
    (errors.OutOfMemory, Observation(origin=R, text="Can't create a session. ERROR_CODE: 1, ERROR_MESSAGE: Load model failed: std::bad_alloc")),
    # a page that is spoilt
    (errors.SessionRefused, Observation(origin=R, text="Error: another WebGPU EP inference session is being created.")),
    (errors.SessionRefused, Observation(origin=R, text="RuntimeError: Aborted(). Build with -sASSERTIONS for more info.")),
    (errors.SessionRefused, Observation(origin=R, text="no available backend found. ERR: [wasm] Error: previous call to 'initWasm()' failed.")),
    # the socket
    (errors.ConnectionLost, Observation(origin=W, code=1006)),
    (errors.ConnectionLost, Observation(origin=W)),
    (errors.PageCrashed, Observation(origin=W, code=1001)),
    (errors.BrowserCrashed, Observation(origin=W, code=1001, browser_alive=False)),
    (errors.PageCrashed, Observation(origin=W, code=1006, page_alive=False)),
    (errors.BrowserCrashed, Observation(origin=W, code=1006, page_alive=False, browser_alive=False)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "seen"), FAULTS, ids=lambda x: getattr(x, "kind", None) or str(getattr(x, "text", x))[:40]
)
def test_faults(fault: type[Fault], seen: Observation) -> None:
    assert classify(seen) is fault


NOT_FAULTS: list[tuple[type[BrowserPoolError] | None, Observation]] = [
    (None, Observation(origin=Origin.TEST, text="AssertionError")),
    (None, Observation(origin=Origin.TEST, text="InputError")),
    (None, Observation(origin=Origin.TEST, text="AssertionError", browser_alive=False)),
    (errors.UnsupportedOperator, Observation(origin=R, text="ERROR_CODE: 9, ERROR_MESSAGE: Could not find an implementation for Foo(1) node")),
    (errors.UnsupportedOperator, Observation(origin=R, text="Error: Can't create a session. ERROR_CODE: 1, ERROR_MESSAGE: transformer_memcpy.cc:254 !node_provider_type.empty() was false. Provider type for Identity node with name '' is not set.")),
    (errors.UnsupportedOperator, Observation(origin=R, text="No Op registered: com.acme.Foo(-1) is not a registered function/op")),
    (errors.InvalidModel, Observation(origin=R, text="Error: Can't create a session. ERROR_CODE: 2, ERROR_MESSAGE: Invalid model. Node input 'nope' is not a graph input, initializer, or output of a previous node.")),
    (errors.InvalidModel, Observation(origin=R, text="Error: Can't create a session. ERROR_CODE: 6, ERROR_MESSAGE: No opset import for domain 'com.acme'")),
    (errors.InvalidModel, Observation(origin=R, text="ERROR_CODE: 7, ERROR_MESSAGE: Failed to load model because protobuf parsing failed.")),
    (errors.InputError, Observation(origin=R, text="Got invalid dimensions for input: x for the following indices")),
    (errors.InputError, Observation(origin=R, text="Unexpected input data type. Actual: (tensor(double)) , expected: (tensor(float))")),
    (errors.RunFailed, Observation(origin=R, text="Non-zero status code returned while running Gather node.")),
    (errors.RunFailed, Observation(origin=R, text="the model's device has a broad reach; memory of it stays")),
    (errors.RunFailed, Observation(origin=W, code=1009)),
    (None, Observation(origin=W, code=1008)),
    (errors.ConfigurationError, Observation(origin=P, text="BrowserType.launch: spawn /etc/passwd EACCES", phase=Phase.LAUNCH)),
    (errors.DeadlineExceeded, Observation(origin=T, phase=Phase.WAIT)),
    (None, Observation(origin=P, text="Page.click: no element matches #go")),
    (None, Observation(origin=X, text="utility", code=0)),
    (None, Observation(origin=E, text="console")),
]  # fmt: skip


@pytest.mark.parametrize(("error", "seen"), NOT_FAULTS, ids=lambda x: str(getattr(x, "text", x))[:40])
def test_not_faults(error: type[BrowserPoolError] | None, seen: Observation) -> None:
    found = diagnose(seen)
    assert found.error is error
    assert found.fault is None


observations = st.builds(
    Observation,
    origin=st.sampled_from(Origin),
    text=st.one_of(st.text(max_size=30), st.sampled_from([r.example for r in RULES])),
    code=st.none() | st.integers(-20, 4999),
    phase=st.sampled_from(Phase),
    browser_alive=st.sampled_from([None, True, False]),
    page_alive=st.sampled_from([None, True, False]),
)


@given(observations)
def test_what_we_did_ourselves_is_no_fault_and_the_tests_own_never_is(seen: Observation) -> None:
    import dataclasses

    assert classify(dataclasses.replace(seen, expected=True)) is None
    assert classify(dataclasses.replace(seen, origin=Origin.TEST)) is None
    assert diagnose(seen).reason


@given(observations)
def test_a_dead_browser_explains_everything_but_a_launch(seen: Observation) -> None:
    import dataclasses

    if seen.origin is Origin.TEST:
        return
    launching = seen.phase is Phase.LAUNCH
    found = classify(dataclasses.replace(seen, browser_alive=False))
    assert launching or found is errors.BrowserCrashed
    assert (
        not launching or found is not errors.BrowserCrashed or "driver" in seen.text or seen.origin in (E, P)
    )


@given(st.permutations(range(4)))
def test_the_signs_of_one_kill_give_one_diagnosis_in_any_order(order: list[int]) -> None:
    signs = [
        Observation(origin=W, code=1006),
        Observation(origin=E, text="close"),
        Observation(origin=P, text="Page.evaluate: Target page, context or browser has been closed"),
        Observation(origin=E, text="disconnected"),
    ]
    found = worst(signs[i] for i in order)
    assert found is not None
    assert found.fault is errors.BrowserCrashed


def test_what_the_pages_make_of_a_message_agrees() -> None:
    """The edge that reads onnxruntime's messages and this taxonomy retry the same ones."""
    from pytest_browserpool.browsers.interpret import interpret

    seen = [Observation(origin=R, text=rule.example) for rule in RULES if R in rule.origins]
    seen += [one for _, one in [*FAULTS, *NOT_FAULTS] if one.origin is R]
    assert len(seen) > 20
    for one in seen:
        assert isinstance(interpret(one.text, where="here"), Fault) == (classify(one) is not None), one.text


def test_worst_of_no_faults_is_the_first_error() -> None:
    run_failed = Observation(origin=R, text="something about the model")
    assert worst([Observation(origin=Origin.TEST, text="ValueError"), run_failed]) == diagnose(run_failed)
    assert worst([]) is None


def test_every_fault_of_the_taxonomy_is_recognised_ranked_and_has_an_aftermath() -> None:
    kinds = set(Fault.__subclasses__())
    assert {fault for fault, _ in FAULTS} == kinds
    assert set(SEVERITY) == set(AFTERMATHS) == kinds


def test_no_page_that_hung_or_lost_its_device_is_ever_retried_in() -> None:
    for fault in Fault.__subclasses__():
        allowed = Step.RETRY not in aftermath(fault).forbidden
        assert allowed == (fault is errors.ConnectionLost)
        assert (aftermath(fault).lost is Lost.NOTHING) == allowed


def test_a_fault_nobody_knows_is_trusted_with_nothing() -> None:
    class Strange(Fault):
        kind = "strange"

    class Tab(errors.PageCrashed):
        kind = "tab"

    assert aftermath(Strange).lost is Lost.BROWSER
    assert aftermath(Tab) == aftermath(errors.PageCrashed)


@pytest.mark.parametrize("fault", Fault.__subclasses__(), ids=lambda fault: fault.kind)
def test_every_fault_names_a_remedy(fault: type[Fault]) -> None:
    assert f"\n  remedy: {fault.usual_remedy}" in str(fault("gone"))
    assert fault("gone", remedy="wait").remedy == "wait"
