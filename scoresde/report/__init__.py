"""Pictures, plots and one self-contained page of HTML. Everything shown was computed elsewhere."""

from scoresde.report.html import Page
from scoresde.report.pictures import image_grid, labelled_rows
from scoresde.report.plots import density_panel, line_plot, to_png_bytes, to_svg, way_panel
from scoresde.report.png import encode_png, write_png

__all__ = [
    "Page",
    "density_panel",
    "encode_png",
    "image_grid",
    "labelled_rows",
    "line_plot",
    "to_png_bytes",
    "to_svg",
    "way_panel",
    "write_png",
]
