"""Data that comes with the `demo` extra: scikit-learn's digits and crops of scikit-image's photographs.

Only photographs inside the scikit-image wheel are used; nothing is ever downloaded. In colour: a portrait of
an astronaut, a cat, a cup of coffee, a field of galaxies, stained tissue, a motorcycle, a retina and a rocket
at launch. In grey there are besides: three textures (brick, grass, gravel), a cameraman, coins and the moon.
"""

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import numpy as np

from scoresde.data.arrays import from_pictures
from scoresde.data.dataset import Dataset
from scoresde.data.errors import DataError
from scoresde.data.files import Entry, read_pictures
from scoresde.data.options import Options, sides

COLOUR_PHOTOS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
GREY_PHOTOS = ("brick.png", "camera.png", "coins.png", "grass.png", "gravel.png", "moon.png")
SMALLEST_SIDE = 300  # of chelsea.png, which is in both sets


def digits(options: Options | None = None) -> Dataset:
    """The 1797 handwritten digits of scikit-learn (UCI; Alpaydin and Kaynak 1998) with their labels.

    8 x 8 pixels, grey, stored as they are: whole numbers from 0 to 16, so there are 17 levels.

    Raises
    ------
    DataError
        if scikit-learn is not installed.
    """
    options = options or Options()
    options.refuse_all_but(("n", "channels"), "digits")
    _require("sklearn", "scikit-learn", "digits")
    # importing it takes a second
    from sklearn.datasets import load_digits

    found = load_digits()
    return from_pictures(
        found.images.astype(np.uint8)[:, None],
        found.target.astype(np.int64),
        "digits",
        options,
        value_range=(0, 16),
        class_names=[str(digit) for digit in found.target_names],
    )


def photos(
    n: int = 4096,
    size: int | tuple[int, int] = 32,
    channels: int = 3,
    seed: int = 0,
    downscale: int = 1,
) -> Dataset:
    """Random crops of photographs: (n, channels, *size) uint8.

    size       side of a crop in pixels, or (height, width), up to 300 / downscale.
    channels   3: crops of the eight colour photographs; 1: of these in grey and of six grey ones.
    downscale  shrink the photographs by this whole factor, so that a small crop shows structure.

    The photographs take turns: item i comes from number i modulo their count. Crops may overlap, so those
    held out by `split` are not wholly unseen.

    Raises
    ------
    DataError
        if scikit-image is not installed or the crop is larger than the smallest photograph.
    """
    if downscale < 1:
        raise ValueError(f"downscale must be 1 or more, got {downscale}")
    height, width = sides(size)
    crop = (height * downscale, width * downscale)
    options = Options(n=n, crop=crop, size=size, channels=channels, seed=seed)
    if max(crop) > SMALLEST_SIDE:
        raise DataError(
            f"photos: size {height}x{width} times downscale {downscale} must not exceed {SMALLEST_SIDE}, "
            "the side of the smallest photograph"
        )
    _require("skimage", "scikit-image", "photos")
    folder = _photo_folder()
    names = COLOUR_PHOTOS if channels == 3 else COLOUR_PHOTOS + GREY_PHOTOS
    entries = [Entry(name, partial(_open, folder / name)) for name in names]
    return read_pictures(entries, options, "photos")


def _require(module: str, package: str, name: str) -> None:
    if find_spec(module) is None:
        raise DataError(f"{name}: {package} is not installed; run: pip install 'scoresde[demo]'")


def _photo_folder() -> Path:
    """Where the wheel keeps its pictures; found without importing scikit-image, whose fetchers download."""
    spec = find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("photos: scikit-image has no folder here; run: pip install 'scoresde[demo]'")
    return Path(spec.submodule_search_locations[0], "data")


def _open(path: Path) -> IO[bytes]:
    return path.open("rb")
