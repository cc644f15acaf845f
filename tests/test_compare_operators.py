"""The tolerances against ONNX's own operator cases: onnxruntime is right there, so nothing may be refused."""

from __future__ import annotations

import re

import numpy as np
import onnxruntime
import pytest

from pytest_browserpool import assert_close
from pytest_browserpool.errors import SourceError

# Where native onnxruntime really gives something else than ONNX's case expects.
KNOWN = {
    r"cast(like)?_.*STRING": "it writes another number of digits",
    r"cast.*FLOAT8": "its Python binding returns float8 as uint8",
    r"averagepool_3d_dilations_large_count_include_pad": "it counts padding otherwise",
    r"averagepool_2d_ceil_last_window_starts_on_pad": "the case's values are written with four digits",
    r"maxunpool_export_with_output_shape": "it unpools otherwise",
    r"qlinearmatmul_.D_int8": "it saturates otherwise",
    r"attention_.*_causal": "it masks with the lowest number instead of -infinity",
    r"resize_downsample_scales_\w+_align_corners": "it aligns corners otherwise",
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the makers of ONNX's cases
def test_right_operators_are_never_refused():
    from onnx.backend.test.case.node import collect_testcases

    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # a thousand small sessions, each with threads of its own otherwise
    compared, refused = 0, {}
    for case in collect_testcases(None):
        # onnxruntime is asked for what its version knows; the rest is not about us
        try:
            session = onnxruntime.InferenceSession(case.model.SerializeToString(), options)
            inputs = dict(zip([i.name for i in session.get_inputs()], case.data_sets[0][0], strict=True))
            outputs = dict(
                zip([o.name for o in session.get_outputs()], session.run(None, inputs), strict=True)
            )
        except Exception:  # noqa: BLE001
            continue
        expected = dict(zip(outputs, case.data_sets[0][1], strict=True))
        if not all(isinstance(value, np.ndarray) for value in (*outputs.values(), *expected.values())):
            continue
        try:
            assert_close(outputs, expected, case.model, inputs=inputs)
            compared += 1
        except SourceError as error:
            if "random numbers" not in str(error):
                raise
        except AssertionError as error:
            refused[case.name] = str(error)
    unexpected = {n: why for n, why in refused.items() if not any(re.search(k, n) for k in KNOWN)}
    assert not unexpected, "\n".join(f"{name}: {why}" for name, why in unexpected.items())
    assert compared > 900
