"""Text drawn with Pillow's own font, and what the readers of text want to be given."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

HEIGHT = 48
"""Pixels, of every line that PP-OCR reads."""


def line(text: str, size: int = 40, margin: int = 8) -> Image.Image:
    """``text`` in black on white, as wide as it is."""
    font = ImageFont.load_default(size)  # ships with Pillow: the same on a bare machine
    left, top, right, bottom = font.getbbox(text)
    picture = Image.new("RGB", (int(right - left) + 2 * margin, int(bottom - top) + 2 * margin), "white")
    ImageDraw.Draw(picture).text((margin - left, margin - top), text, font=font, fill="black")
    return picture


def blank(width: int = 320) -> Image.Image:
    return Image.new("RGB", (width, HEIGHT), "white")


def pixels(picture: Image.Image, width: int | None = None) -> NDArray[np.float32]:
    """The picture at 48 pixels' height as PP-OCR wants it: blue first, -1 … 1, shape [1, 3, 48, width].

    It keeps its proportions and is padded with zeros to ``width``, or by default to a multiple of 32.
    """
    own = round(picture.width * HEIGHT / picture.height)
    width = width or -(-own // 32) * 32
    small = np.asarray(picture.resize((min(own, width), HEIGHT), Image.Resampling.BILINEAR), np.float32)
    values = np.zeros((1, 3, HEIGHT, width), np.float32)
    values[0, :, :, : small.shape[1]] = (small[:, :, ::-1] / 255 - 0.5).transpose(2, 0, 1) / 0.5
    return values


def read(logits: NDArray[np.generic], alphabet: str) -> str:
    """Greedy CTC: the best class of each step, repetitions merged, blanks (class 0) dropped.

    Args:
        logits: [1, steps, classes].
        alphabet: the characters of classes 1, 2, … one a line, as the model's metadata has them.
    """
    characters = ["", *alphabet.split("\n")]
    characters += [" "] * (logits.shape[-1] - len(characters))  # the last class is the space
    best = logits[0].argmax(axis=-1)
    kept = best[np.insert(best[1:] != best[:-1], 0, True)]
    return "".join(characters[i] for i in kept)
