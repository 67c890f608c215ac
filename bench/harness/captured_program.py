"""A program whose memory is worth restoring: it computes, says ``ready``, and waits to be captured."""

import signal

import matplotlib
import numpy as np
from matplotlib import pyplot


def _compute() -> dict[str, object]:
    """Hold what such a program holds: arrays, many small objects, and a drawn figure."""
    random = np.random.default_rng(1)
    samples = random.standard_normal(1 << 22)
    return {
        "samples": samples,
        "sorted": np.sort(samples),
        "spectrum": np.fft.rfft(samples),
        "covariance": np.cov(samples[: 1 << 20].reshape(1024, 1024)),
        "words": {f"word {number:x}": number * number for number in random.integers(0, 1 << 40, 400_000).tolist()},
        "lists": [list(range(number % 50)) for number in range(60_000)],
        "figure": _draw(samples),
    }


def _draw(samples: np.ndarray) -> object:
    matplotlib.use("Agg")
    figure, axes = pyplot.subplots(2, 1, figsize=(12, 9), dpi=150)
    axes[0].hist(samples, bins=500)
    axes[1].plot(samples[:50_000])
    figure.canvas.draw()
    return figure


if __name__ == "__main__":
    _held = _compute()
    print("ready", flush=True)
    while True:
        signal.pause()
