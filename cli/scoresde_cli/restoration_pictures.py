"""Restorations to look at: pictures of values on the scale [0, 1], and the panel that shows everything at once."""

from __future__ import annotations

import matplotlib
import numpy as np
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from scoresde import report
from scoresde.recipe import Space
from scoresde.report.plots import PALETTE, STYLE

IN_PANEL = 8  # samples
SIDE = 256  # pixels of a picture in the panel, at most
INTERVAL = 1.645  # standard deviations: 90 % of a normal law


def pixels(values: Tensor, space: Space) -> np.ndarray:
    """(..., C, H, W) from 0 to 1 as uint8 or uint16, whichever the prior was trained on; what lies outside is cut."""
    return space.to_user(2.0 * values - 1.0)


def uncertainty(std: Tensor) -> Tensor:
    """A standard deviation as a picture, 1 (white) where it is largest."""
    return std / std.max().clamp_min(1e-12)


def panel(
    measured: Tensor | None, samples: Tensor, mean: Tensor, std: Tensor, truth: Tensor | None, space: Space
) -> bytes:
    """Rows of pictures, as a PNG.

    Args:
        measured: (1, C, h, w), of any size; None when it is no picture.
        samples: (n, C, H, W); mean, std: (C, H, W); truth: (1, C, H, W).
    """
    size = tuple(mean.shape[-2:])
    rows = {} if measured is None else {"measured": F.interpolate(measured, size=size, mode="nearest")}
    rows |= {"samples": samples[:IN_PANEL], "mean": mean[None]}
    rows[f"std, white = {std.max().item():.2g}"] = uncertainty(std)[None]
    if truth is not None:
        rows["truth"] = truth
    eight_bit = Space("image", space.shape, levels=256)
    return report.encode_png(report.labelled_rows({name: pixels(_small(x), eight_bit) for name, x in rows.items()}))


def _small(x: Tensor) -> Tensor:
    """Shrunk by averaging, for the longer side to be `SIDE` at most."""
    factor = -(-max(x.shape[-2:]) // SIDE)
    return x if factor == 1 else F.avg_pool2d(x, factor, ceil_mode=True, count_include_pad=False)


def plot(samples: Tensor, mean: Tensor, std: Tensor, truth: Tensor | None) -> bytes:
    """The panel of samples (n, *) that are no pictures: points of the plane, or entries with their uncertainty."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.6, 3.4), layout="constrained")
        axes = figure.add_subplot()
        if tuple(samples.shape[1:]) == (2,):
            axes.set_aspect("equal")
            axes.plot(*samples.T.numpy(), ".", color=PALETTE[1], markersize=3, label="samples")
            axes.plot(*mean.numpy(), "x", color=PALETTE[0], label="mean")
            if truth is not None:
                axes.plot(*truth[0].numpy(), "+", color="black", label="truth")
        else:
            entries = np.arange(mean.numel())
            middle, half = mean.flatten().numpy(), INTERVAL * std.flatten().numpy()
            axes.fill_between(entries, middle - half, middle + half, color=PALETTE[1], alpha=0.3, label="90 %")
            axes.plot(entries, middle, color=PALETTE[0], marker=".", label="mean")
            if truth is not None:
                axes.plot(entries, truth.flatten().numpy(), ".", color="black", label="truth")
            axes.set_xlabel("entry")
        axes.legend()
        return report.to_png_bytes(figure)
