"""Our fixtures are function-scoped, and what the documentation advises in place of a wider scope finds its model warm."""

from __future__ import annotations

import pytest
from acceptance_support import Runner
from model_support import scaling


def test_a_wider_scope_is_refused_by_pytest(run: Runner) -> None:
    run.suite(
        test_wide="""
            import pytest

            @pytest.fixture(scope="module", params=["model", "browser_pool"])
            def wide(request):
                return request.getfixturevalue(request.param)

            def test_it(wide): ...
        """
    )
    done = run(reports=False)
    done.result.assert_outcomes(errors=2)
    assert done.output.count("ScopeMismatch") >= 2


@pytest.mark.browser
def test_a_model_that_a_fixture_loads_for_each_test_is_warm_from_the_second_on(
    run: Runner, pytester: pytest.Pytester
) -> None:
    (pytester.path / "scaling.onnx").write_bytes(scaling().SerializeToString())
    run.suite(
        test_each="""
            import pytest

            @pytest.fixture
            def scaling(browser_pool):
                return browser_pool.load("scaling.onnx", browsers=["chromium"], backends=["wasm"])

            def test_first(scaling):
                assert not scaling.warm

            @pytest.mark.parametrize("number", range(3))
            def test_others(scaling, number, browser_pool):
                assert scaling.warm and scaling.load_time_ms == 0
                assert browser_pool.stats()["loads"] == 1
        """
    )
    run().result.assert_outcomes(passed=4)
