"""The folder of one restoration: samples that are kept, and what is made of all of them.

    measurement.npy, .png      y; the picture where it can be shown as one; mask.png, of what is kept
    sample-000000.npy, .png    each sample as computed, and to look at
    mean.npy, std.npy, ...     of the samples
    panel.png                  all of it
    metrics.json               what they are worth, how they were made
    settings.json, sha256.txt  what decides the samples, and their digests: see `gallery`

Values are those of the user: pictures from 0 to 1, not cut.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde.recipe import Space
from scoresde_cli import restoration_pictures as pictures
from scoresde_cli.gallery import Gallery
from scoresde_cli.pictures import npy_bytes, png_bytes, write_bytes

METRICS = "metrics.json"
MADE = (
    *("measurement.npy", "measurement.png", "mean.npy", "mean.png", "std.npy", "std.png", "truth.png", "mask.png"),
    "panel.png",
    METRICS,
)


class Folder:
    """Where the samples of one posterior lie.

    Args:
        space: of the prior's samples; shape: of one of these, which may differ from those that it was trained on.
        deciding: what the samples depend on.
        title: of a sample, kept inside its PNG.
    """

    def __init__(
        self, path: Path, space: Space, shape: tuple[int, ...], deciding: Mapping[str, Any], title: str
    ) -> None:
        self.path, self.space, self.title = path, space, title
        self._gallery = Gallery(path, Space("array", shape), deciding, title)

    def open(self, *, overwrite: bool) -> None:
        """Make the folder, or check that what is in it was made with these settings.

        Raises:
            UsageError: it was not, and `overwrite` is not set; OSError: it cannot be made.
        """
        if self._gallery.open(overwrite=overwrite):
            for name in MADE:
                (self.path / name).unlink(missing_ok=True)

    def whole(self, ids: Sequence[int]) -> set[int]:
        """Those of the samples that are there as they were written."""
        return self._gallery.whole(ids)

    def metrics(self) -> dict[str, Any] | None:
        """Those of an earlier run; None when it did not come to them."""
        try:
            return dict(json.loads((self.path / METRICS).read_bytes()))
        except (OSError, ValueError):
            return None

    def add(self, ids: Sequence[int], x: Tensor) -> None:
        """Write samples (n, *), each one's picture first: what has its numbers and their digest counts as whole."""
        for i, value in zip(ids, x, strict=True):
            self._view(f"sample-{i:06d}", value, i)
            self._gallery.add([i], np.asarray(value.float())[None])

    def read(self, ids: Sequence[int]) -> Tensor:
        """(n, *) float64."""
        return torch.stack(
            [torch.from_numpy(np.load(self.path / self._gallery.name(i), allow_pickle=False)) for i in ids]
        ).double()

    def write_measurement(self, y: Tensor, seen: Tensor | None, mask: Tensor | None) -> None:
        """y (*); what it looks like, (1, C, h, w), and what is kept, (H, W), where there is such a thing."""
        self._array("measurement", y)
        if seen is not None:
            self._view("measurement", seen[0])
        if mask is not None:
            write_bytes(self.path / "mask.png", png_bytes(255 * mask[None].numpy().astype(np.uint8)))

    def write_summary(self, samples: Tensor, truth: Tensor | None, seen: Tensor | None) -> None:
        """What is made of all samples (n, *).

        Args:
            truth: (1, *), where it is known; seen: what the measurement looks like, (1, C, h, w).
        """
        mean = samples.mean(0)
        std = samples.std(0) if len(samples) > 1 else torch.zeros_like(mean)
        self._array("mean", mean)
        self._array("std", std)
        if self.space.kind != "image":
            write_bytes(self.path / "panel.png", pictures.plot(samples, mean, std, truth))
            return
        self._view("mean", mean)
        self._view("std", pictures.uncertainty(std))
        if truth is not None:
            self._view("truth", truth[0])
        write_bytes(self.path / "panel.png", pictures.panel(seen, samples, mean, std, truth, self.space))

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        write_json(self.path / METRICS, metrics)

    def _array(self, name: str, values: Tensor) -> None:
        write_bytes(self.path / f"{name}.npy", npy_bytes(values.float().numpy()))

    def _view(self, name: str, values: Tensor, sample: int | None = None) -> None:
        if self.space.kind == "image":
            title = f"{self.title}, {name if sample is None else f'sample {sample}'}"
            notes = {"scoresde": title, "scoresde settings": self._gallery.digest}
            write_bytes(self.path / f"{name}.png", png_bytes(pictures.pixels(values, self.space), notes))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Values as a file."""
    write_bytes(path, (json.dumps(plain(value), indent=2, allow_nan=False) + "\n").encode())


def plain(value: Any) -> Any:
    """As JSON has it: numbers, lists and words; null for what is not finite."""
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, int | float | str | bool) or value is None else str(value)
