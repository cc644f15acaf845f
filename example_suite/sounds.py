"""Sounds made from arithmetic: silence, tones, noise, and a voice that a detector of speech takes for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

Samples = NDArray[np.float32]
Run = Callable[[dict[str, NDArray[np.generic]]], dict[str, NDArray[np.generic]]]

SPEECH_RATE = 16_000
"""Hz, of Silero VAD."""
MUSIC_RATE = 22_050
"""Hz, of Basic Pitch."""
FRAME = 512
"""Samples that Silero VAD looks at in a step: 32 ms."""
CONTEXT = 64
"""Samples of the frame before that go in front."""

# First three formants of five vowels, Hz (Peterson and Barney 1952, men): a, i, u, ɛ, ɔ
VOWELS = np.array(
    [[730, 1090, 2440], [270, 2290, 3010], [300, 870, 2240], [530, 1840, 2480], [570, 840, 2410]], float
)
BANDWIDTHS = (60.0, 90.0, 150.0)


def silence(seconds: float) -> Samples:
    return np.zeros(int(seconds * SPEECH_RATE), np.float32)


def noise(seconds: float) -> Samples:
    return np.random.default_rng(0).normal(0, 0.05, int(seconds * SPEECH_RATE)).astype(np.float32)


def tone(seconds: float, hertz: float, rate: int = SPEECH_RATE, overtones: tuple[float, ...] = ()) -> Samples:
    """A sine, with ``overtones`` as amplitudes of its second, third … harmonic."""
    t = np.arange(int(seconds * rate)) / rate
    partials = enumerate((1.0, *overtones), start=1)
    return (0.3 * sum(a * np.sin(2 * np.pi * hertz * n * t) for n, a in partials)).astype(np.float32)


def voice(seconds: float, pitch: float = 130.0) -> Samples:
    """Vowels one after the other, four syllables a second: pulses of a glottis through moving formants.

    Args:
        pitch: Hz, around which the voice rises and falls.
    """
    samples = int(seconds * SPEECH_RATE)
    t = np.arange(samples) / SPEECH_RATE
    melody = pitch * (1 + 0.15 * np.sin(2 * np.pi * 0.8 * t) - 0.1 * t / seconds)
    pulses = np.diff(np.floor(np.cumsum(melody) / SPEECH_RATE), prepend=0.0)
    sound = lfilter([1.0], [1.0, -0.873], pulses)  # a glottis closes softly: less energy in high partials
    sound = sound - sound.mean() + np.random.default_rng(0).normal(0, 0.005, samples)
    syllable = t * 4
    current, blend = syllable.astype(int), np.clip((syllable % 1) * 3 - 2, 0, 1)[:, None]
    formants = VOWELS[current % 5] * (1 - blend) + VOWELS[(current + 1) % 5] * blend
    for number, bandwidth in enumerate(BANDWIDTHS):
        sound = _resonate(sound, formants[:, number], bandwidth)
    sound = sound * (0.15 + 0.85 * np.sin(np.pi * (syllable % 1)) ** 0.7)
    return (0.3 * sound / np.abs(sound).max()).astype(np.float32)


def _resonate(
    sound: NDArray[np.float64], hertz: NDArray[np.float64], bandwidth: float
) -> NDArray[np.float64]:
    """A resonance that moves, set anew every 5 ms."""
    step, state, parts = SPEECH_RATE // 200, np.zeros(2), []
    radius = np.exp(-np.pi * bandwidth / SPEECH_RATE)
    for start in range(0, len(sound), step):
        turn = 2 * radius * np.cos(2 * np.pi * hertz[start] / SPEECH_RATE)
        feedback = [1.0, -turn, radius**2]
        part, state = lfilter([sum(feedback)], feedback, sound[start : start + step], zi=state)
        parts.append(part)
    return np.concatenate(parts)


def vad_inputs(samples: Samples, state: NDArray[np.generic] | None = None) -> dict[str, NDArray[np.generic]]:
    """Inputs of Silero VAD for one frame of 576 samples: 64 of context and 512 new ones."""
    assert samples.shape == (CONTEXT + FRAME,)
    return {"input": samples[None], "state": np.zeros((2, 1, 128), np.float32) if state is None else state}


def frames(samples: Samples) -> Iterator[Samples]:
    """What Silero VAD is given step by step."""
    padded = np.concatenate([np.zeros(CONTEXT, np.float32), samples])
    for start in range(0, len(samples) - FRAME + 1, FRAME):
        yield padded[start : start + CONTEXT + FRAME]


def speech_probabilities(run: Run, samples: Samples) -> NDArray[np.float64]:
    """The probability of speech in each frame, the state carried from step to step."""
    state, found = None, []
    for frame in frames(samples):
        outputs = run(vad_inputs(frame, state))
        state = outputs["stateN"]
        found.append(float(outputs["output"].item()))
    return np.array(found)
