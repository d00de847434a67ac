"""`scoresde sample --interpolate`: frames between samples, through their latents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from cli_cases import Call
from PIL import Image
from sample_cases import coarsely, pictures_run, points_run, settings

from scoresde import sampling
from scoresde.data import read_image
from scoresde.latents import slerp
from scoresde.mixtures import MIXTURES
from scoresde.noise import CounterNoise
from scoresde.processes import VP


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures_run(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return points_run(tmp_path_factory.mktemp("points"))


@pytest.mark.parametrize("solver", ["unipc", "rk45", "sa"])
@pytest.mark.parametrize("kind", ["pictures", "points", "gmm:ring8"])
def test_an_interpolation_passes_through_the_samples_themselves(
    call: Call, request: pytest.FixtureRequest, kind: str, solver: str
) -> None:
    model = kind if kind.startswith("gmm") else request.getfixturevalue(kind)
    eta = ("--eta", 0) if solver == "sa" else ()
    words = ("sample", model, "--solver", solver, *eta, *coarsely(solver, 4), "--batch-size", 4, "--seed", 3)
    assert call(*words, "--seeds", "5,9", "--out", "plain")[0] == 0
    assert call(*words, "--interpolate", "9,5,9", "--frames", 4, "--out", "way")[0] == 0
    frames = {path.stem: path for path in Path("way").glob("frame-*")}
    assert sorted(frames) == [f"frame-{i:06d}" for i in range(7)]
    read = read_image if kind == "pictures" else np.load
    plain = {path.stem: read(path) for path in Path("plain").glob("sample-*")}
    for frame, sample in ((0, 9), (3, 5), (6, 9)):
        np.testing.assert_array_equal(read(frames[f"frame-{frame:06d}"]), plain[f"sample-{sample:06d}"])
    values = np.stack([read(frames[name]) for name in sorted(frames)]).astype(float)
    np.testing.assert_array_equal(values[1], values[5])  # there and back
    assert (values[0] != values[1]).any()
    assert (values[1] != values[2]).any()


def test_frames_are_shown_leg_by_leg_and_kept_like_samples(call: Call, pictures: Path) -> None:
    words = ("sample", pictures, "--steps", 3, "--batch-size", 4, "--interpolate", "4,1,7", "--frames", 3)
    code, out, _ = call(*words)
    folder = pictures / "samples/interpolate-4-1-7-frames3-unipc-3-seed0"
    assert (code, out) == (0, f"{folder}\n")
    found = settings(folder)
    assert (found["interpolate"], found["frames"], found["drawn"]) == ([4, 1, 7], 3, "0-4")
    with Image.open(folder / "grid.png") as grid:
        assert grid.size == (3 * 66 + 2 * 2, 2 * 66 + 2)
        shown = [np.asarray(grid)[top : top + 66, left : left + 66] for top, left in ((0, 2 * 68), (68, 0), (68, 68))]
    np.testing.assert_array_equal(shown[0], shown[1])  # the first leg ends where the second begins
    assert (shown[1] != shown[2]).any()
    with Image.open(folder / "frame-000001.png") as picture:
        assert picture.info["scoresde"] == "unipc, 3 steps, seed 0, between samples 4, 1, 7, frame 1"
    before = {path.name: path.read_bytes() for path in folder.glob("frame-*")}
    (folder / "frame-000001.png").write_bytes(b"gone wrong")
    (folder / "frame-000003.png").unlink()
    _, _, err = call(*words)
    assert "3 of 5 frames are there already" in err
    assert {path.name: path.read_bytes() for path in folder.glob("frame-*")} == before
    code, _, err = call(*words[:-3], "4,1", "--out", folder)
    assert code == 2
    assert "interpolate is [4, 1, 7] there and [4, 1] here" in err
    assert call(*words[:-3], "4,1", "--out", folder, "--overwrite")[0] == 0
    assert len(list(folder.glob("frame-*"))) == 9


def test_frames_are_what_the_library_decodes_between_latents(call: Call) -> None:
    """The command draws what the library's `slerp` and `decode` give."""
    words = ("sample", "gmm:ring8", "--steps", 20, "--interpolate", "0,1", "--frames", 5)
    _, out, _ = call(*words)
    frames = np.load(Path(out.strip(), "frames.npy"))
    assert frames.shape == (5, 2)
    denoiser = MIXTURES["ring8"]().denoiser(VP())
    ends = CounterNoise(0, torch.tensor([0, 1]), (2,)).start()
    weights = torch.linspace(0, 1, 5)
    expected = sampling.decode(denoiser, slerp(ends[:1], ends[1:], weights), steps=20)
    np.testing.assert_allclose(frames, expected.numpy(), rtol=1e-4, atol=1e-5)
