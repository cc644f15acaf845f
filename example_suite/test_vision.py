"""Pictures of text: which way up, and what does it say?"""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image, ImageFont

from example_suite.pictures import blank, line, pixels, read

ANGLE = "pypi:rapidocr==3.10.0/rapidocr/models/ch_ppocr_mobile_v2.0_cls_mobile.onnx"
RECOGNISER = "pypi:rapidocr==3.10.0/rapidocr/models/PP-OCRv6_rec_small.onnx"

ANGLE_OUT, LOGITS = "save_infer_model/scale_0.tmp_1", "fetch_name_0"
UPRIGHT, UPSIDE_DOWN = 0, 1


def which_way_up(model, agree, picture):
    """The class that ``model`` gives the picture, once it agrees with native onnxruntime."""
    inputs = {"x": pixels(picture, 192)}
    outputs = model(inputs)
    agree(model, inputs, outputs)
    best = int(outputs[ANGLE_OUT].argmax())
    assert outputs[ANGLE_OUT][0, best] > 0.99
    return best


@pytest.mark.model(ANGLE, type="vision", backends=["webgpu"], on="each", timeout=120)  # compiles for seconds
def test_text_is_told_from_upside_down_text_on_each_gpu(model, agree):
    picture = line("Hello WebGPU 42")
    assert which_way_up(model, agree, picture) == UPRIGHT
    assert which_way_up(model, agree, picture.rotate(180)) == UPSIDE_DOWN
    assert model.backend == "webgpu"


@pytest.mark.model(ANGLE, type="vision", backends=["webnn"])
def test_text_is_told_from_upside_down_text_on_webnn(model, agree):
    picture = line("A browser reads this")
    assert which_way_up(model, agree, picture) == UPRIGHT
    assert which_way_up(model, agree, picture.rotate(180)) == UPSIDE_DOWN
    assert model.backend == "webnn"


@pytest.mark.model(ANGLE, type="vision", backends=["wasm"])
@pytest.mark.parametrize("text", ["Upside down", "no. 7, at 12:30"])
def test_upside_down_text_is_recognised_as_such(model, agree, text):
    assert which_way_up(model, agree, line(text).rotate(180)) == UPSIDE_DOWN
    assert model.backend == "wasm"


@pytest.mark.model(RECOGNISER, type="vision", backends=["wasm"])
@pytest.mark.parametrize("text", ["Hello WebGPU 42", "3.14159 = pi", "A browser reads this line"])
def test_a_rendered_line_reads_back_exactly(model, agree, text):
    inputs = {"x": pixels(line(text))}
    outputs = model(inputs)
    assert read(outputs[LOGITS], model.metadata["character"]) == text
    agree(model, inputs, outputs)


@pytest.mark.model(RECOGNISER, type="vision", backends=["webnn"])
def test_a_rendered_line_reads_back_exactly_on_webnn(model, agree):
    inputs = {"x": pixels(line("Hello WebNN 147"), 352)}
    outputs = model(inputs)
    assert model.backend == "webnn"
    assert read(outputs[LOGITS], model.metadata["character"]) == "Hello WebNN 147"
    agree(model, inputs, outputs)


@pytest.mark.model(RECOGNISER, type="vision", backends=["wasm"])
def test_an_empty_page_says_nothing(model):
    assert read(model({"x": pixels(blank())})[LOGITS], model.metadata["character"]) == ""


@pytest.mark.model(type="vision")
def test_text_that_a_browser_draws_reads_back(browser_pool):
    font = base64.b64encode(ImageFont.load_default(40).font_bytes).decode()
    with browser_pool.lease() as page:
        page.set_content(
            f"""<style>
                  @font-face {{ font-family: own; src: url(data:font/ttf;base64,{font}) }}
                  p {{ font: 40px own; margin: 0; padding: 8px; width: max-content; background: white }}
                </style><p>Drawn by a browser</p>"""
        )
        page.evaluate("document.fonts.load('40px own')")
        picture = Image.open(io.BytesIO(page.locator("p").screenshot())).convert("RGB")
    model = browser_pool.load(RECOGNISER, type="vision", backends=["wasm"])
    assert read(model({"x": pixels(picture)})[LOGITS], model.metadata["character"]) == "Drawn by a browser"
