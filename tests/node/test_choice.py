"""Which (browser, backend) a node tries first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pytest_browserpool.browsers.choice import Candidate, beyond_wasm, candidates, reasons, weighed
from pytest_browserpool.browsers.kinds import Builds, PageKind
from pytest_browserpool.values import BACKENDS, Adapter, BackendSupport, BrowserCapabilities, ModelNeeds


def browser(name: str, family: str, *backends: str, software: bool = True) -> BrowserCapabilities:
    adapter = Adapter(description="llvmpipe" if software else "NVIDIA")
    return BrowserCapabilities(
        name=name,
        family=family,
        version="1",
        backends=tuple(
            BackendSupport(
                name=b, available=b in backends, detail=f"no {b}", adapter=adapter if b == "webgpu" else None
            )
            for b in BACKENDS
        ),
    )


CHROMIUM = browser("chromium", "chrome", "webgpu", "wasm")
FIREFOX = browser("firefox", "firefox", "webgpu", "wasm")
SHELL = browser("headless-shell", "chrome", "webgpu", "webnn", "wasm")
ALL = (CHROMIUM, FIREFOX, SHELL)


def names(found: list[Candidate]) -> list[str]:
    return [f"{c.browser}/{c.backend}" for c in found]


def test_backends_are_a_strict_order():
    needs = ModelNeeds(backends=("webnn", "wasm"), browsers=("firefox", "chrome"))
    assert names(candidates(needs, ALL)) == [
        "headless-shell/webnn",
        "firefox/wasm",
        "chromium/wasm",
        "headless-shell/wasm",
    ]


def test_a_warm_session_goes_before_a_running_browser_and_both_before_the_marker_s_order():
    needs = ModelNeeds(backends=("wasm",), browsers=("chromium", "firefox", "headless-shell"))
    found = candidates(
        needs, ALL, warm={Candidate("headless-shell", "wasm")}, running={"firefox", "headless-shell"}
    )
    assert names(found) == ["headless-shell/wasm", "firefox/wasm", "chromium/wasm"]


def test_the_type_s_prior_decides_when_nothing_else_does():
    assert candidates(ModelNeeds(type="audio", backends=("wasm",)), ALL)[0].browser == "firefox"
    assert candidates(ModelNeeds(type="vision", backends=("wasm",)), ALL)[0].browser == "chromium"


def test_an_applied_way_goes_before_everything_but_the_scheduler_s_choice():
    firefox, shell = Candidate("firefox", "webgpu"), Candidate("headless-shell", "wasm")
    found = weighed(ModelNeeds(), ALL, preferred=firefox, warm={shell}, running={"headless-shell"})
    assert found[0][1] == firefox
    assert weighed(ModelNeeds(), ALL, preferred=firefox, hint=shell)[0][1] == shell
    assert weighed(ModelNeeds(browsers=("chromium",)), ALL, preferred=firefox)[0][1].browser == "chromium"


def test_the_hint_goes_first_but_only_if_it_is_allowed():
    needs = ModelNeeds(backends=("wasm",))
    assert candidates(needs, ALL, hint=Candidate("headless-shell", "wasm"))[0].browser == "headless-shell"
    assert names(candidates(needs, ALL, hint=Candidate("edge", "wasm"))) == names(candidates(needs, ALL))


def test_a_name_with_an_equals_sign_is_that_browser_alone():
    assert {c.browser for c in candidates(ModelNeeds(browsers=("=chromium",)), ALL)} == {"chromium"}
    assert {c.browser for c in candidates(ModelNeeds(browsers=("chrome",)), ALL)} == {
        "chromium",
        "headless-shell",
    }


def test_software_webgpu_is_the_last_resort_and_hardware_the_first():
    assert CHROMIUM.preference[-1] == "webgpu"
    assert browser("chrome", "chrome", "webgpu", "wasm", software=False).preference[0] == "webgpu"


def test_without_backends_the_browser_is_chosen_first_and_then_what_it_prefers():
    assert names(candidates(ModelNeeds(type="audio"), ALL))[:3] == [
        "firefox/wasm",
        "chromium/wasm",
        "headless-shell/webnn",
    ]


def test_why_nothing_qualifies():
    needs = ModelNeeds(browsers=("firefox",), backends=("webnn",))
    assert candidates(needs, ALL) == []
    assert "firefox/webnn: no webnn" in reasons(needs, ALL)
    assert any(line.startswith("chromium: not among") for line in reasons(needs, ALL))


words = st.sampled_from(["chromium", "chrome", "firefox", "headless-shell", "edge", "=firefox"])


@given(
    st.lists(words, max_size=4),
    st.lists(st.sampled_from(BACKENDS), max_size=4, unique=True),
    st.sets(
        st.builds(Candidate, st.sampled_from(["chromium", "firefox"]), st.sampled_from(BACKENDS)), max_size=3
    ),
)
def test_only_what_is_allowed_and_given_each_once_in_the_order_of_backends(browsers, backends, warm):
    needs = ModelNeeds(browsers=tuple(browsers), backends=tuple(backends))
    found = candidates(needs, ALL, warm=warm)
    assert len(set(found)) == len(found)
    by_name = {b.name: b for b in ALL}
    for candidate in found:
        assert by_name[candidate.browser].gives(candidate.backend)
        assert not browsers or any(by_name[candidate.browser].answers_to(w) for w in browsers)
    if backends:
        ranks = [backends.index(c.backend) for c in found]
        assert ranks == sorted(ranks)


def test_only_what_would_be_tried_first_asks_for_more_than_wasm():
    anything = ModelNeeds()
    assert beyond_wasm([ModelNeeds(backends=("wasm", "webgpu"))], ALL) == frozenset()
    assert (
        beyond_wasm([anything], (CHROMIUM, FIREFOX)) == frozenset()
    )  # on software adapters wasm comes first
    assert beyond_wasm([ModelNeeds(backends=("webnn", "wasm"))], ALL) == {"headless-shell"}
    assert beyond_wasm([ModelNeeds(backends=("webgpu",), browsers=("firefox",))], ALL) == {"firefox"}
    assert beyond_wasm([anything], [browser("chromium", "chrome", "webgpu", "wasm", software=False)]) == {
        "chromium"
    }
    assert beyond_wasm([ModelNeeds(backends=("webnn",), browsers=("firefox",))], ALL) == frozenset()


@given(
    st.sampled_from(["all", "native", "wasm"]), st.sampled_from([None, 1, 2]), st.booleans(), st.booleans()
)
def test_a_page_has_the_build_that_was_asked_for_or_the_whole_one_in_its_place(bundle, threads, small, soon):
    kind = Builds(threads=2, small=small, whole_soon=soon).of(PageKind(bundle, threads))
    assert kind.threads == (threads or 2)
    if bundle != "wasm":
        assert kind.bundle == bundle
    elif not small or (
        soon and kind.threads == 2
    ):  # shards with threads of their own share no page with webgpu
        assert kind.bundle == "all"
    else:
        assert kind.bundle == "wasm"
