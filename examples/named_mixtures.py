"""A picture of the named mixtures in two dimensions, `gmm:NAME` on the command line: density and exact samples.

python examples/named_mixtures.py [FILE.png]
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import scoresde as sd
from scoresde.report import density_panel, to_png_bytes


def main(path: Path, points: int = 400, resolution: int = 160) -> Path:
    """Write the picture."""
    axis = np.linspace(-2.4, 2.4, resolution)
    grid = torch.as_tensor(np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)).float()
    pictures = []
    for name, make in sd.MIXTURES.items():
        law = make()
        if law.dim != 2:
            continue
        density = law.log_prob(grid).exp().reshape(resolution, resolution).numpy()
        # the square root, so that wide and faint modes show beside narrow ones
        figure = density_panel(axis, axis, density**0.5, {f"gmm:{name}": law.sample(points).numpy()})
        figure.set_facecolor("white")
        pictures.append(np.asarray(Image.open(io.BytesIO(to_png_bytes(figure, dpi=110))).convert("RGB")))
    height = min(p.shape[0] for p in pictures)
    Image.fromarray(np.concatenate([p[:height] for p in pictures], axis=1)).save(path, optimize=True)
    return path


if __name__ == "__main__":
    print(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("named_mixtures.png")))
