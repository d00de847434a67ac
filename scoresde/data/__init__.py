"""Data sets of arrays of any shape: from a name, a folder, a zip, or a file, to tensors.

data = open_data("photos/", Options(size=64, channels=3))
train, held_out = split(data)
x = train.batch([0, 1, 2])        # (3, 3, 64, 64) float32 in [-1, 1]
"""

from scoresde.data.arrays import from_array
from scoresde.data.augment import flip_horizontal, quarter_turns
from scoresde.data.bundled import digits, photos
from scoresde.data.dataset import Dataset, standardise
from scoresde.data.errors import DataError
from scoresde.data.images import SUFFIXES, read_image
from scoresde.data.options import Options
from scoresde.data.source import SOURCES, Source, open_data
from scoresde.data.split import split
from scoresde.data.toys import checkerboard, moons, rings, swissroll

__all__ = [
    "SOURCES",
    "SUFFIXES",
    "DataError",
    "Dataset",
    "Options",
    "Source",
    "checkerboard",
    "digits",
    "flip_horizontal",
    "from_array",
    "moons",
    "open_data",
    "photos",
    "quarter_turns",
    "read_image",
    "rings",
    "split",
    "standardise",
    "swissroll",
]
