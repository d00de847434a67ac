"""Pictures to the pixel, files whole or absent, and a page that asks nothing of the network."""

import base64
import io
import math
import re
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from scoresde.report import (
    Page,
    density_panel,
    encode_png,
    image_grid,
    labelled_rows,
    line_plot,
    to_png_bytes,
    to_svg,
    way_panel,
    write_png,
)

RNG = np.random.default_rng(0)


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return RNG.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


# Grids


def test_a_grid_places_each_picture_and_leaves_the_gaps_white() -> None:
    images = noise(5, 3, 4, 6)
    grid = image_grid(images, columns=3, gap=2, scale=1)
    assert grid.shape == (4 + 2 + 4, 3 * 6 + 2 * 2, 3)
    covered = np.zeros(grid.shape[:2], bool)
    for i, image in enumerate(images):
        top, left = i // 3 * 6, i % 3 * 8
        np.testing.assert_array_equal(grid[top : top + 4, left : left + 6], image.transpose(1, 2, 0))
        covered[top : top + 4, left : left + 6] = True
    assert (grid[~covered] == 255).all()


@pytest.mark.parametrize("shape", [(2, 3, 3), (2, 1, 3, 3)])
def test_grey_pictures_become_equal_channels(shape: tuple[int, ...]) -> None:
    images = noise(*shape)
    grid = image_grid(images, columns=2, gap=0, scale=1)
    for channel in range(3):
        np.testing.assert_array_equal(grid[:, :3, channel], images[0].reshape(3, 3))


def test_enlarging_repeats_each_pixel() -> None:
    image = noise(1, 2, 3)
    grid = image_grid(image, scale=5)
    np.testing.assert_array_equal(grid[..., 0], np.kron(image[0], np.ones((5, 5), np.uint8)))


@pytest.mark.parametrize(
    ("size", "scale"), [((8, 8), 8), ((28, 28), 3), ((32, 100), 2), ((64, 64), 1), ((300, 200), 1)]
)
def test_small_pictures_are_enlarged_until_the_shorter_side_is_64(size: tuple[int, int], scale: int) -> None:
    assert image_grid(noise(1, *size)).shape == (size[0] * scale, size[1] * scale, 3)


@pytest.mark.parametrize(("n", "columns"), [(1, 1), (4, 2), (5, 3), (9, 3), (10, 4)])
def test_a_grid_is_nearly_square_by_default(n: int, columns: int) -> None:
    assert image_grid(noise(n, 1, 1), gap=0, scale=1).shape[1] == columns


def test_a_grid_is_no_wider_than_its_pictures() -> None:
    assert image_grid(noise(2, 3, 3), columns=7, gap=1, scale=1).shape == (3, 7, 3)


def test_labelled_rows_stand_right_of_their_names() -> None:
    rows = {"DDIM": noise(3, 8, 8), "Ancestral": noise(2, 8, 8)}
    page = labelled_rows(rows, gap=2, scale=2)
    margin = page.shape[1] - (3 * 16 + 2 * 2)
    np.testing.assert_array_equal(page[:16, margin:], image_grid(rows["DDIM"], 3, gap=2, scale=2))
    np.testing.assert_array_equal(page[18:, margin : margin + 34], image_grid(rows["Ancestral"], 2, gap=2, scale=2))
    assert (page[18:, margin + 34 :] == 255).all()
    for top in (0, 18):
        ink = (page[top : top + 16, :margin] < 128).any(axis=2)
        assert ink.sum() > 20
        assert not ink[:, 0].any()
        assert not ink[:, -1].any()


def test_heads_stand_above_their_columns() -> None:
    rows = {"a": noise(3, 8, 8), "b": noise(2, 8, 8)}
    plain = labelled_rows(rows, gap=2, scale=4, font_size=10)
    page = labelled_rows(rows, heads=("5", "10", "20"), gap=2, scale=4, font_size=10)
    np.testing.assert_array_equal(page[20:], plain)
    ink = (page[:20] < 128).any(axis=(0, 2))
    margin = page.shape[1] - (3 * 32 + 2 * 2)
    for j in range(3):
        (columns,) = np.nonzero(ink[margin + 34 * j : margin + 34 * j + 32])
        assert abs((columns.min() + columns.max()) / 2 - 15.5) < 2
    assert not ink[:margin].any()


def test_pictures_of_another_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8, got float64"):
        image_grid(np.zeros((2, 3, 3)))
    with pytest.raises(ValueError, match=r"got \(2, 4, 3, 3\)"):
        image_grid(noise(2, 4, 3, 3))
    with pytest.raises(ValueError, match=r"got \(0, 3, 3\)"):
        image_grid(noise(0, 3, 3))
    with pytest.raises(ValueError, match="columns must be at least 1"):
        image_grid(noise(2, 3, 3), columns=0)
    with pytest.raises(ValueError, match="scale must be at least 1, got 0"):
        image_grid(noise(2, 3, 3), scale=0)
    with pytest.raises(ValueError, match="same height"):
        labelled_rows({"a": noise(1, 3, 3), "b": noise(1, 4, 4)}, scale=1)
    with pytest.raises(ValueError, match="at least one row"):
        labelled_rows({})


# PNG


def decode(png: bytes) -> np.ndarray:
    """An independent reading of what `encode_png` writes, for 16-bit RGB, which Pillow would cut to 8 bits."""
    chunks, at = {}, 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        name, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        assert struct.unpack(">I", png[at + 8 + length : at + 12 + length]) == (zlib.crc32(name + data),)
        chunks[name] = data
        at += 12 + length
    W, H, bits, colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(H, -1)
    assert (lines[:, 0] == 2).all()
    rows = np.cumsum(lines[:, 1:], axis=0, dtype=np.uint8)
    return rows.view(f">u{bits // 8}").reshape(H, W, {0: 1, 2: 3}[colour])


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (1, 1), (1, 9, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pixels_survive_a_png(shape: tuple[int, ...], dtype: type) -> None:
    array = noise(*shape, dtype=dtype)
    png = encode_png(array)
    np.testing.assert_array_equal(decode(png).reshape(shape), array)
    if dtype is np.uint8 or len(shape) == 2 or shape[2] == 1:
        with Image.open(io.BytesIO(png)) as image:
            image.load()
            np.testing.assert_array_equal(np.asarray(image).reshape(shape), array)


def test_notes_survive_a_png(tmp_path: Path) -> None:
    notes = {"scoresde": '{"seed": 0}', "Title": "Größe, \N{GREEK SMALL LETTER SIGMA} = 0.1\nsecond line"}
    write_png(tmp_path / "a.png", noise(4, 4), notes)
    with Image.open(tmp_path / "a.png") as image:
        image.load()
        assert image.text == notes


def test_arrays_that_are_no_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8 or uint16, got float32"):
        encode_png(np.zeros((2, 2), np.float32))
    with pytest.raises(ValueError, match=r"got \(3, 5, 5\)"):
        encode_png(noise(3, 5, 5))
    with pytest.raises(ValueError, match="key of the text"):
        encode_png(noise(2, 2), {"": "x"})


def test_a_written_file_replaces_the_old_one_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_png(path, noise(2, 2))
    write_png(path, np.full((3, 3), 7, np.uint8))
    with Image.open(path) as image:
        assert np.asarray(image).tolist() == [[7] * 3] * 3
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")

    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        Page("New").write(path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_png(tmp_path / "absent" / "a.png", noise(2, 2))


# Plots


def curves() -> Figure:
    x = np.array([1.0, 10.0, 100.0])
    return line_plot(
        {"first": (x, 1 / x), "second": (x, 1 / x**2)},
        xlabel="evaluations", ylabel="distance", xlog=True, ylog=True,
        errors={"first": 0.1 / x}, levels={"floor": 1e-3},
    )  # fmt: skip


def panel() -> Figure:
    xs, ys = np.linspace(-3, 3, 30), np.linspace(-1, 1, 20)
    density = np.exp(-(xs**2) - 4 * ys[:, None] ** 2)
    return density_panel(xs, ys, density, {"exact": np.zeros((0, 2)), "DDIM": np.array([[1.0, 0.5], [0.0, 0.0]])})


def test_a_line_plot_draws_the_numbers_it_was_given() -> None:
    (axes,) = curves().axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["first", "second", "floor"]
    drawn = axes.get_lines()[0].get_xydata()
    np.testing.assert_array_equal(drawn, [[1, 1], [10, 0.1], [100, 0.01]])


def test_bands_lie_where_they_should_and_paths_behind_the_curves() -> None:
    x = np.array([1.0, 2.0])
    (axes,) = line_plot(
        {"a": (x, x)}, xlabel="", ylabel="", bands={"floor": (0.5, 1.5)}, behind={"best": (x, 2 * x)},
        errors={"a": np.array([[0.1, 0.2], [0.3, 0.4]])},
    ).axes  # fmt: skip
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["best", "a", "floor"]
    (band,) = axes.patches
    assert (band.get_y(), band.get_y() + band.get_height()) == (0.5, 1.5)
    best, curve = axes.get_lines()[:2]
    np.testing.assert_array_equal(best.get_xydata(), [[1, 2], [2, 4]])
    assert best.get_zorder() < curve.get_zorder()
    (bars,) = [collection for collection in axes.collections if hasattr(collection, "get_segments")]
    np.testing.assert_allclose([segment[:, 1] for segment in bars.get_segments()], [[0.9, 1.3], [1.8, 2.4]])


@pytest.mark.parametrize(
    ("top", "labels"),
    [(100.0, ["1", "2", "5", "10", "20", "50", "100"]), (1e4, ["1", "10", "100", "1000", "10000"])],
)
def test_logarithmic_axes_have_plain_numbers(top: float, labels: list[str]) -> None:
    figure = line_plot({"a": (np.array([1.0, top]), np.array([1.0, 2.0]))}, xlabel="", ylabel="", xlog=True)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    ticks = [*axes.xaxis.get_major_ticks(), *axes.xaxis.get_minor_ticks()]
    shown = [tick.label1.get_text() for tick in ticks if 1 <= tick.get_loc() <= top and tick.label1.get_text()]
    assert sorted(shown, key=float) == labels


def test_a_way_panel_joins_the_points_of_each_path() -> None:
    ways = np.stack([np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[0.0, 2.0], [3.0, 1.0]])])
    (axes,) = way_panel({"unipc": ways}).axes
    lines = [line.get_xydata().tolist() for line in axes.get_lines() if len(line.get_xdata()) == 2]
    assert lines == [[[0, 0], [0, 2]], [[1, 1], [3, 1]]]
    assert (axes.get_title(), axes.get_xlim(), axes.get_ylim()) == ("unipc", (0, 3), (0, 2))


def test_a_legend_below_is_below() -> None:
    x = np.array([1.0, 2.0])
    figure = line_plot({"a": (x, x), "b": (x, x)}, xlabel="x", ylabel="y", legend_columns=2)
    figure.draw_without_rendering()
    ((axes,), (legend,)) = figure.axes, figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]
    assert legend.get_window_extent().y1 <= axes.get_tightbbox().y0
    assert axes.get_legend() is None


def test_series_differ_by_more_than_colour() -> None:
    x = np.arange(3)
    (axes,) = line_plot({str(i): (x, x + i) for i in range(20)}, xlabel="", ylabel="").axes
    lines = axes.get_lines()
    assert len({(line.get_marker(), line.get_linestyle()) for line in lines}) == len(lines) == 20
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 20


def test_a_density_panel_shows_the_samples_at_equal_scales() -> None:
    figure = panel()
    assert [axes.get_title() for axes in figure.axes] == ["exact", "DDIM"]
    for axes in figure.axes:
        assert axes.get_aspect() == 1.0
        assert axes.get_xlim() == (-3, 3)
        assert axes.get_ylim() == (-1, 1)
    assert figure.axes[1].get_lines()[0].get_xydata().tolist() == [[1.0, 0.5], [0.0, 0.0]]


def test_a_density_panel_has_its_peak_where_the_density_has_it() -> None:
    """x runs to the right and y upwards: the peak at (2, -0.5) is in the lower right."""
    xs, ys = np.linspace(-3, 3, 61), np.linspace(-1, 1, 41)
    density = np.exp(-4 * (xs - 2) ** 2 - 40 * (ys[:, None] + 0.5) ** 2)
    png = to_png_bytes(density_panel(xs, ys, density, {"": np.zeros((0, 2))}), dpi=100)
    with Image.open(io.BytesIO(png)) as image:
        red = np.asarray(image.convert("RGB"))[..., 0]
    row, column = np.argwhere(red == red.min()).mean(axis=0)
    assert column > 0.7 * red.shape[1]
    assert row > 0.6 * red.shape[0]


@pytest.mark.parametrize("make", [curves, panel])
def test_an_svg_is_one_element_in_the_colour_of_the_text(make) -> None:  # type: ignore[no-untyped-def]
    svg = to_svg(make())
    assert svg.startswith("<svg")
    assert svg.endswith("</svg>")
    assert "currentColor" in svg
    assert "#1f2326" not in svg
    assert "metadata" not in svg
    assert to_svg(make()) == svg


def test_a_plot_as_png_is_a_picture_of_its_size() -> None:
    with Image.open(io.BytesIO(to_png_bytes(curves(), dpi=50))) as image:
        assert image.size == (300, 180)


def test_plotting_leaves_the_global_style_alone() -> None:
    before = dict(matplotlib.rcParams)
    to_svg(curves())
    to_png_bytes(panel())
    assert dict(matplotlib.rcParams) == before


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"points of 'a' must be two \(N,\) arrays, got \(3,\) and \(2,\)"):
        line_plot({"a": (np.arange(3), np.arange(2))}, xlabel="", ylabel="")
    with pytest.raises(ValueError, match=r"values must be .* \(3, 2\), got \(2, 3\)"):
        density_panel(np.arange(2), np.arange(3), np.zeros((2, 3)), {"a": np.zeros((1, 2))})
    with pytest.raises(ValueError, match=r"samples of 'a' must be \(N, 2\), got \(4, 3\)"):
        density_panel(np.arange(2), np.arange(3), np.ones((3, 2)), {"a": np.zeros((4, 3))})
    with pytest.raises(ValueError, match=r"ways of 'a' must be \(m, n, 2\), got \(4, 2\)"):
        way_panel({"a": np.zeros((4, 2))})


# The page

HOSTILE = "<script>alert(\"x\")</script> & 'more'"


class Elements(HTMLParser):
    """Every element with its attributes, and a check that what opens also closes."""

    VOID = frozenset({"meta", "img", "br", "path", "use", "rect", "image"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def every(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def full_page() -> Page:
    page = Page("A title", "A lead.")
    page.section("One")
    page.text("First paragraph.\n\nSecond paragraph.")
    page.figure(curves(), "Curves.", "Two falling curves")
    page.section("Two")
    page.figure(panel(), "Panels.", "Two panels")
    page.figure(encode_png(noise(6, 9, 3)), "Noise.", "Noise")
    page.section("Three")
    page.table(["solver", "distance"], [["DDIM", 0.0123456], ["Heun", None], ["RK45", -3]], sortable=True)
    page.code("scoresde demo\nscoresde env")
    return page


def test_a_page_is_well_formed_and_says_its_language_and_width() -> None:
    elements = Elements(full_page().html())
    assert elements.open == []
    assert elements.every("html") == [{"lang": "en"}]
    assert any(meta.get("name") == "viewport" for meta in elements.every("meta"))
    assert len(elements.every("title")) == len(elements.every("h1")) == 1
    assert len(elements.every("p")) == 3


def test_a_page_asks_nothing_of_the_network() -> None:
    html = full_page().html()
    targets = re.findall(r"""(?:src|href|action|srcset)\s*=\s*["']?([^"'\s>]*)""", html)
    targets += re.findall(r"url\(\s*[\"']?([^)\"']*)", html)
    assert len(targets) > 10
    assert [t[:60] for t in targets if not t.startswith(("#", "data:image/png;base64,"))] == []
    assert "@import" not in html
    assert "<link" not in html
    assert "default-src 'none'" in html


def test_identifiers_are_unique_and_every_reference_finds_its_own() -> None:
    html = full_page().html()
    names = re.findall(r'\bid="([^"]*)"', html)
    assert len(names) == len(set(names))
    references = re.findall(r'href="#([^"]*)"', html) + re.findall(r"url\(#([^)]*)\)", html)
    assert references
    assert set(references) <= set(names)


def test_whatever_is_written_on_a_page_is_text() -> None:
    page = Page(HOSTILE, HOSTILE)
    for _ in range(3):
        page.section(HOSTILE)
    page.text(HOSTILE)
    page.code(HOSTILE)
    page.table([HOSTILE], [[HOSTILE]], caption=HOSTILE, sortable=True)
    page.figure(encode_png(noise(2, 2)), HOSTILE, HOSTILE)
    page.figure(line_plot({HOSTILE: ([1], [1])}, xlabel=HOSTILE, ylabel=""), "", HOSTILE)
    elements = Elements(page.html())
    assert len(elements.every("script")) == 1
    assert elements.every("img")[0]["alt"] == HOSTILE
    assert elements.every("svg")[0]["aria-label"] == HOSTILE
    seen = "".join(elements.words)
    # title, heading, lead; three sections and their links; text, code; header, cell, caption; caption; axis
    assert seen.count(HOSTILE) == 3 + 6 + 2 + 3 + 1 + 1


def test_every_picture_has_words_for_those_who_cannot_see_it() -> None:
    elements = Elements(full_page().html())
    assert [svg["aria-label"] for svg in elements.every("svg")] == ["Two falling curves", "Two panels"]
    assert [(img["alt"], img["width"], img["height"]) for img in elements.every("img")] == [("Noise", "9", "6")]


def test_a_narrow_plot_fits_a_phone_and_a_wide_one_scrolls() -> None:
    page = Page("Plots")
    x = np.arange(3)
    for width in (5.0, 6.0):
        page.figure(line_plot({"a": (x, x)}, xlabel="", ylabel="", size=(width, 3.0)), "", "")
    assert [svg.get("class") for svg in Elements(page.html()).every("svg")] == ["narrow", None]


def test_a_picture_on_a_page_is_the_file_it_was_given() -> None:
    page, png = Page("Picture"), encode_png(noise(4, 5))
    page.figure(png, "", "")
    (image,) = Elements(page.html()).every("img")
    assert base64.b64decode(str(image["src"]).removeprefix("data:image/png;base64,")) == png


def test_a_table_shows_four_digits_and_keeps_all_of_them_for_sorting() -> None:
    html = full_page().html()
    assert '<td class="number" data-value="0.0123456">0.01235</td>' in html
    assert '<td class="number">\N{EN DASH}</td>' in html
    assert '<td class="number" data-value="-3.0">\N{MINUS SIGN}3</td>' in html
    assert html.count('<button type="button">') == 2


def test_numbers_of_numpy_are_numbers_in_a_table() -> None:
    page = Page("Numbers")
    page.table(["a", "b", "c"], [[np.float64(0.5), np.float32(0.25), np.int64(7)], [float("nan"), -math.inf, True]])
    cells = re.findall(r"<td[^>]*>[^<]*</td>", page.html())
    assert cells[:3] == [
        '<td class="number" data-value="0.5">0.5</td>',
        '<td class="number" data-value="0.25">0.25</td>',
        '<td class="number" data-value="7.0">7</td>',
    ]
    assert cells[4:] == [
        '<td class="number" data-value="-Infinity">\N{MINUS SIGN}inf</td>',
        '<td class="number">True</td>',
    ]
    assert cells[3] == '<td class="number">\N{EN DASH}</td>'


def test_a_pair_shows_its_text_and_sorts_by_its_number() -> None:
    page = Page("Pairs")
    page.table(["a"], [[(0.0123, "0.012 ± 0.001")], [(math.nan, "-")]], sortable=True)
    assert '<td class="number" data-value="0.0123">0.012 ± 0.001</td>' in page.html()
    assert '<td class="number">\N{EN DASH}</td>' in page.html()


def test_commands_are_selected_whole_and_tables_fold_wrap_and_widen() -> None:
    page = Page("Tables")
    page.table(["row", "command"], [["a", "scoresde sample <x>"], ["b", None]], code=("command",), folded="Commands")
    page.table(["about"], [["long"]], wrap=True)
    page.table([str(i) for i in range(12)], [list(range(12))])
    html = page.html()
    assert "<td><code>scoresde sample &lt;x&gt;</code></td>" in html
    assert "<td>a</td>" in html
    assert "<td>\N{EN DASH}</td>" in html
    assert "user-select: all" in html
    assert html.count("<details><summary>Commands</summary>") == 1
    assert re.findall(r'<div class="(table[^"]*)"', html) == ["table", "table wrap", "table wide"]
    Elements(html)


def test_only_a_page_with_three_sections_lists_them() -> None:
    page = Page("Short")
    page.section("One")
    page.section("Two")
    assert "<nav" not in page.html()
    page.section("Three")
    assert '<a href="#section-3">Three</a>' in page.html()


def test_a_page_on_disk_is_the_page_in_utf8(tmp_path: Path) -> None:
    page = Page("\N{GREEK SMALL LETTER SIGMA} = 0.1")
    page.write(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page.html()


def test_what_does_not_fit_on_a_page_is_refused() -> None:
    page = Page("Errors")
    with pytest.raises(ValueError, match="row 1 has 1 cells where there are 2 headers"):
        page.table(["a", "b"], [[1, 2], [3]])
    with pytest.raises(ValueError, match="PNG"):
        page.figure(b"GIF89a", "", "")
    with pytest.raises(ValueError, match="<svg>"):
        page.figure("<div>", "", "")
