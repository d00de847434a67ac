"""`scoresde likelihood`: the library's numbers in one table, files that are whole, and words about what went wrong."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shlex
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_cases import Call

import scoresde as sd
from scoresde import checkpoint, grids
from scoresde.chain import DDPM
from scoresde.likelihood import ExactTrace, Hutchinson, flow_likelihood, matched_gaussian
from scoresde.noise import uniform
from scoresde_cli import likelihood_computing, likelihood_data, likelihood_table
from scoresde_cli.main import run

TRAIN = ("--preset", "tiny", "--steps", 3, "--batch-size", 8, "--validate-every", 0, "--sample-every", 0)
RING = ("likelihood", "gmm:ring8", "-n", 40, "--chain-steps", 15, "--trajectories", 6, "--steps", 40)
QUICK = ("--chain-steps", 5, "--trajectories", 2, "--steps", 6, "-n", 4)


def results(folder: str | Path) -> dict[str, Any]:
    return json.loads(Path(folder, "results.json").read_text())


def place(out: str) -> Path:
    """The folder of the report that the last line of standard output names."""
    path = Path(out.splitlines()[-1])
    assert path.name == "report.html"
    return path.parent


def table(folder: Path) -> dict[str, dict[str, Any]]:
    return {of["name"]: of for of in results(folder)["table"]}


def columns(folder: Path) -> dict[str, np.ndarray]:
    with (folder / "likelihoods.csv").open() as stream:
        rows = list(csv.reader(stream))
    return dict(zip(rows[0], np.array(rows[1:], dtype=float).T, strict=True))


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on points of the plane, far from unit scale."""
    folder = tmp_path_factory.mktemp("points")
    np.save(folder / "x.npy", 100.0 + 20.0 * np.random.default_rng(0).normal(size=(60, 2)))
    words = ("train", folder / "x.npy", "--out", folder / "run", "--held-out", 0.3, *TRAIN)
    assert run([str(word) for word in words]) == 0
    return folder / "run"


def pictures_run(folder: Path, side: int) -> Path:
    """A run on square pictures, without held-out data."""
    np.save(folder / "x.npy", np.random.default_rng(0).integers(0, 256, size=(20, side, side), dtype=np.uint8))
    words = ("train", folder / "x.npy", "--out", folder / "run", "--held-out", 0, *TRAIN)
    assert run([str(word) for word in words]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures_run(tmp_path_factory.mktemp("pictures"), 4)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whose trace is not exact unless asked for."""
    return pictures_run(tmp_path_factory.mktemp("wide"), 5)


# --- the numbers ---------------------------------------------------------------------------------------


def test_a_mixture_is_held_to_its_exact_log_density(call: Call) -> None:
    code, out, err = call(*RING)
    assert code == 0
    folder = place(out)
    assert folder == Path("likelihood/gmm-ring8/draws-n40-K15-optimal-uniform-M6-seed0")
    assert {path.name for path in folder.iterdir()} == {"results.json", "likelihoods.csv", "report.html"}
    found, law = columns(folder), sd.MIXTURES["ring8"]()
    x = law.sample(40, likelihood_data.JUDGED)
    np.testing.assert_allclose(found["exact"], -law.log_prob(x.double()), rtol=1e-7)
    np.testing.assert_allclose(found["probability flow"], found["exact"], atol=0.05)
    chain, denoiser = DDPM.from_levels(sd.VP(), grids.uniform(15)), law.denoiser(sd.VP())
    others = law.sample(likelihood_data.OTHERS, likelihood_data.NOT_JUDGED)[: likelihood_computing.MEASURED]
    bound = chain.weighted_bound(denoiser, x, trajectories=6, variance=chain.optimal_variances(denoiser, others))
    rows = {"variational bound": 1, **{f"weighted bound, M = {m}": m for m in (2, 4, 6)}}
    for name, m in rows.items():
        np.testing.assert_allclose(found[name], bound.nats(m), rtol=1e-5)
        line = table(folder)[name]
        gap = found[name] - found["exact"]
        assert line["nats"] == pytest.approx(found[name].mean(), rel=1e-6)
        assert line["error"] == pytest.approx(found[name].std(ddof=1) / math.sqrt(40), rel=1e-6)
        assert line["above"] == pytest.approx(gap.mean(), rel=1e-5)
        assert line["above_error"] == pytest.approx(gap.std(ddof=1) / math.sqrt(40), rel=1e-5)
        assert line["bits"] == pytest.approx(line["nats"] / (2 * math.log(2)))
        draws = bound.standard_error(m).square().sum().sqrt().item() / 40
        assert line["draws"] == pytest.approx(draws, rel=1e-5)
    means = [table(folder)[name]["nats"] for name in rows]
    assert means[0] > means[1] > means[2] > table(folder)["exact"]["nats"]
    np.testing.assert_allclose(results(folder)["terms"], bound.bound.terms.mean(1), rtol=1e-4, atol=1e-6)
    assert out.splitlines()[0].split()[-2:] == ["exact", "+-"]
    assert [line.split("  ")[0] for line in out.splitlines()[1:3]] == ["exact", "probability flow"]
    assert "bound: step 15/15" in err
    page = (folder / "report.html").read_text()
    assert shlex.join(map(str, ("scoresde", *RING))) in page
    assert page.count("<figure>") == 2


def test_a_tolerance_is_met_and_what_does_not_settle_is_named(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("likelihood", "gmm:ring8", "-n", 8, *QUICK[:4])
    code, out, _ = call(*words, "--tolerance", 1e-3)
    assert code == 0
    found = columns(place(out))
    np.testing.assert_allclose(found["probability flow"], found["exact"], atol=1e-3)
    assert place(out).name.startswith("draws-n8-tolerance0.001-K5")
    page = (place(out) / "report.html").read_text()
    assert re.search(r"to \d+ steps, doubled for each .* within 0.001 nats, which 8 of 8 do, by the exact trace", page)
    code, out, _ = call(*words, "--tolerance", 1e-13)
    assert code == 0
    problems = results(place(out))["problems"]
    assert list(problems) == [str(i) for i in range(8)]
    assert "sample 3 did not settle within 1e-13 nats" in problems["3"][0]
    assert "flow: samples 0, 1, 2, 3, 4 and 3 more did not settle; results.json says by how much" in out


def test_a_tolerance_of_pictures_asks_for_the_exact_trace(call: Call, wide: Path) -> None:
    code, out, err = call("likelihood", wide, wide.parent / "x.npy", *QUICK[:4], "-n", 2, "--tolerance", 0.1)
    assert (code, out) == (2, "")
    assert "--tolerance needs the exact trace, which here costs 25 products" in err


def test_terms_add_up_to_the_bound(call: Call) -> None:
    folder = place(call(*RING, "--variance", "large", "--grid", "logistic")[1])
    found = columns(folder)
    parts = ("L_K, the prior", "L_1 + ... + L_{K-1}", "L_0, the decoder")
    np.testing.assert_allclose(sum(found[part] for part in parts), found["variational bound"], rtol=1e-6)
    assert table(folder)[parts[0]]["above"] is None
    assert results(folder)["settings"]["variance"] == "large"


@pytest.mark.parametrize(
    ("words", "divergence"),
    [
        ((), ExactTrace()),
        (("--trace", "hutchinson"), Hutchinson()),
        (("--probes", 3), Hutchinson(3)),
        (("--gaussian-probes",), Hutchinson(gaussian=True)),
    ],
)
def test_the_held_out_points_of_a_run_have_the_density_of_their_own_units(
    call: Call, points: Path, words: tuple[Any, ...], divergence: Any
) -> None:
    code, out, _ = call("likelihood", points, *QUICK, *words, "--out", "here")
    assert (code, place(out)) == (0, Path("here"))
    found, space, denoiser = columns(Path("here")), checkpoint.read(points).space, sd.load(points)
    material = likelihood_data.open_material(checkpoint.read(points).recipe, space)
    rows = torch.from_numpy(found["sample"]).long()
    x = space.to_model(material.held_out.batch(rows))
    train = space.to_model(material.train.batch(torch.arange(len(material.train))))
    flow = flow_likelihood(denoiser, x, steps=6, divergence=divergence, ids=rows, terminal=matched_gaussian(train))
    wanted = 2 * math.log(space.std) - flow.nats
    np.testing.assert_allclose(found["probability flow"], wanted, rtol=1e-5)
    np.testing.assert_allclose(found["prior's mismatch, corrected"], flow.mismatch, rtol=1e-4, atol=1e-7)
    assert ("probability flow, over draws" in found) == (not divergence.exact)
    chain = DDPM.from_levels(denoiser.sde, grids.uniform(5))
    variance = chain.optimal_variances(denoiser, train)
    bound = chain.bound(denoiser, x, ids=rows, draws=2, variance=variance).nats() + 2 * math.log(space.std)
    np.testing.assert_allclose(found["variational bound"], bound, rtol=1e-4)
    assert results("here")["held_to"] == "probability flow"


@pytest.mark.parametrize("bits", [None, 9])
def test_pictures_have_the_probability_of_their_grey_levels(call: Call, pictures: Path, bits: int | None) -> None:
    data = pictures.parent / "x.npy"
    words = () if bits is None else ("--bits", bits)
    words = (*words, "--trace", "exact", "--dequantise", 3, "--seed", 5, "--variance", "small", "--out", "here")
    code, _, err = call("likelihood", pictures, data, *QUICK, *words)
    assert code == 0
    assert "are the data that the run was trained on" in err
    found, denoiser, dataset = columns(Path("here")), sd.load(pictures), np.load(data)
    rows = torch.from_numpy(found["sample"]).long()
    x = torch.from_numpy(dataset[rows.numpy()][:, None].astype(np.float32)) / 127.5 - 1
    width = 2 / (2 ** (bits or 8) - 1)
    law = matched_gaussian(torch.from_numpy(dataset[:, None].astype(np.float32)) / 127.5 - 1)
    flows = []
    for j in range(3):
        noisy = x + width * (uniform(5, rows, (1, 4, 4), step=j) - 0.5)
        flow = flow_likelihood(denoiser, noisy, steps=6, divergence=ExactTrace(), terminal=law)
        flows.append(flow.nats + 16 * math.log(width))
    nats = torch.stack(flows)
    np.testing.assert_allclose(found["flow, dequantised"], -nats.mean(0), rtol=1e-5)
    weighted = math.log(3) - torch.logsumexp(nats, 0)
    np.testing.assert_allclose(found["flow, 3 draws weighted"], weighted, rtol=1e-5)
    chain = DDPM.from_levels(denoiser.sde, grids.uniform(5))
    bound = chain.weighted_bound(denoiser, x, ids=rows, trajectories=2, seed=5, bin_width=width)
    np.testing.assert_allclose(found["weighted bound, M = 2"], bound.nats(), rtol=1e-4)
    line = table(Path("here"))["variational bound"]
    assert line["bits"] == pytest.approx(line["nats"] / (16 * math.log(2)))
    assert results("here")["settings"]["levels"] == 2 ** (bits or 8)


def test_other_processes_and_a_run_on_a_mixture_know_the_truth_too(call: Call) -> None:
    for process in ("cosine", "ve", "rectified-flow"):
        folder = place(call(*RING[:4], *QUICK[:-2], "--process", process)[1])
        assert folder.parent == Path(f"likelihood/gmm-ring8-{process}")
        assert table(folder)["variational bound"]["above"] > 0
    assert call("train", "gmm:ring8", "--n", 300, "--out", "run", *TRAIN)[0] == 0
    for data in ((), ("gmm:ring8",)):
        folder = place(call("likelihood", "run", *data, *QUICK)[1])
        found = columns(folder)
        assert results(folder)["held_to"] == "exact"
        law = sd.MIXTURES["ring8"]()
        if data:
            x = law.sample(50_000, likelihood_data.JUDGED)[torch.from_numpy(found["sample"]).long()]
            np.testing.assert_allclose(found["exact"], -law.log_prob(x.double()), rtol=1e-6)


# --- files ---------------------------------------------------------------------------------------------


def test_what_is_there_is_shown_again_and_replaced_when_asked(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    words = (*RING, *QUICK)
    code, out, _ = call(*words)
    assert code == 0
    before = (place(out) / "results.json").read_bytes()
    with monkeypatch.context() as without:
        without.setattr(DDPM, "weighted_bound", None)
        code, again, err = call(*words)
    assert (code, again) == (0, out)
    assert "there already; --overwrite" in err
    code, again, _ = call(*words, "--overwrite")
    assert (code, again) == (0, out)
    assert json.loads(before)["table"] == results(place(out))["table"]
    code, out, err = call(*words, "--seed", 1, "--out", place(out))
    assert (code, out) == (2, "")
    assert re.search(r"holds results with other settings: \S+ is .* there and .* here; take another --out", err)


@pytest.mark.parametrize("content", ["{", "[]", '{"format": "other", "version": 1}', "{}"])
def test_a_damaged_file_is_bad_input(call: Call, content: str) -> None:
    Path("here").mkdir()
    Path("here/results.json").write_text(content)
    code, out, err = call(*RING, *QUICK, "--out", "here")
    assert (code, out) == (65, "")
    assert "here/results.json is damaged" in err
    assert call(*RING, *QUICK, "--out", "here", "--overwrite")[0] == 0


def test_a_folder_with_other_things_is_refused(call: Call) -> None:
    Path("here").mkdir()
    Path("here/thesis.tex").write_text("years of work")
    code, out, err = call(*RING, *QUICK, "--out", "here")
    assert (code, out) == (2, "")
    assert "here holds thesis.tex but no results.json; take another --out, or --overwrite" in err


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_nothing(call: Call, monkeypatch: pytest.MonkeyPatch, signum: int) -> None:
    monkeypatch.setattr(DDPM, "weighted_bound", lambda *args, **kwargs: os.kill(os.getpid(), signum))
    code, out, err = call(*RING)
    assert (code, out) == (128 + signum, "")
    assert "Stopped; nothing was written\nTo begin again: scoresde likelihood gmm:ring8 -n 40" in err
    assert list(Path().rglob("*")) == []


def test_a_full_disk_ends_with_73(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def replace(source: Any, target: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", replace)
    code, out, err = call(*RING, *QUICK, "--out", "here")
    assert (code, out) == (73, "")
    assert "No space left" in err
    assert list(Path("here").iterdir()) == []


# --- what goes wrong -----------------------------------------------------------------------------------


def test_a_likelihood_that_is_not_finite_is_named_and_the_others_go_on(call: Call) -> None:
    points, x = Path("run"), np.random.default_rng(1).normal(size=(60, 2))
    np.save("x.npy", x)
    assert call("train", "x.npy", "--out", points, *TRAIN)[0] == 0
    x = x[:5]
    np.save("good.npy", np.delete(x, 3, axis=0).astype(np.float32))
    x[3] = 1e38
    np.save("bad.npy", x.astype(np.float32))
    words = ("--chain-steps", 4, "--steps", 6, "--trajectories", 2)
    code, out, err = call("likelihood", points, "bad.npy", *words)
    assert code == 70
    assert "probability flow; prior's mismatch, corrected: not finite for sample 3, left out of the mean" in out
    assert max(map(len, out.splitlines()[:-2])) < 115
    assert "Error: not finite for sample 3; the others are in" in err
    folder = place(out)
    found = columns(folder)
    assert np.isnan(found["probability flow"]).tolist() == [False, False, False, True, False]
    assert table(folder)["probability flow"]["failed"] == [3]
    assert table(folder)["probability flow"]["nats"] == pytest.approx(np.nanmean(found["probability flow"]), rel=1e-6)
    assert "the flow broke" in results(folder)["problems"]["3"][0]
    assert "Sample 3: the likelihood" in (folder / "report.html").read_text()
    assert call("likelihood", points, "bad.npy", *words)[0] == 70  # also when it is there already
    good = columns(place(call("likelihood", points, "good.npy", *words)[1]))
    np.testing.assert_allclose(good["probability flow"][:3], found["probability flow"][:3], rtol=1e-5)


def test_lines_that_lack_the_same_samples_are_named_together() -> None:
    numbers = torch.tensor([4, 9, 11])
    nan = float("nan")
    first, second = (likelihood_table.Values(name, torch.tensor([nan, 1.0, nan]).double()) for name in ("a", "b"))
    third = likelihood_table.Values("c", torch.tensor([3.0, 1.0, nan]).double(), torch.tensor([0.3, 0.4, nan]).double())
    lines = [likelihood_table.line(of, first, numbers, 2) for of in (first, second, third)]
    assert likelihood_table.left_out(lines[:2]) == ["All lines: not finite for samples 4, 11, left out of the mean"]
    assert likelihood_table.left_out(lines) == [
        "a; b: not finite for samples 4, 11, left out of the mean",
        "c: not finite for sample 11, left out of the mean",
    ]
    assert (lines[2].nats, lines[2].above, lines[2].failed) == (2.0, 0.0, (11,))
    assert lines[2].error == pytest.approx(1.0)
    assert lines[2].draws == pytest.approx(0.25)
    assert likelihood_table.named(list(range(8))) == "samples 0, 1, 2, 3, 4 and 3 more"
    none = likelihood_table.line(likelihood_table.Values("d", torch.full((3,), nan)), first, numbers, 2)
    assert (none.nats, none.error, none.bits, none.above) == (None, None, None, None)
    assert likelihood_table.from_dict(json.loads(json.dumps(lines[2].as_dict()))) == lines[2]
    numbers_shown = likelihood_table.printed([*lines, none], "a, and more")[-4]
    assert numbers_shown.split()[:2] == ["d", "-"]


def test_data_that_do_not_fit_are_bad_input(call: Call, points: Path, pictures: Path) -> None:
    np.save("long.npy", np.zeros((5, 3)))
    Path("x.txt").write_text("no data")
    for model, data, hint in (
        (points, "long.npy", "long.npy holds arrays of shape 3; "),
        (points, "digits", "digits holds pictures of shape 1 x 8 x 8; "),
        (pictures, "long.npy", "is for pictures of shape 1 x 4 x 4"),
        (points, "x.txt", "none of the kinds read"),
        (points, "nowhere.npy", "no such data"),
        ("gmm:ring8", "long.npy", "gmm:ring8 is for arrays of shape 2"),
        ("nowhere", "digits", "nowhere"),
    ):
        code, out, err = call("likelihood", model, data, *QUICK)
        assert (code, out, "Traceback" in err) == (65, "", False), data
        assert hint in err


def test_a_run_without_its_data(call: Call, points: Path, pictures: Path) -> None:
    code, out, err = call("likelihood", pictures, *QUICK)
    assert (code, out) == (2, "")
    assert "was trained without held-out data (--held-out 0); say which DATA" in err
    data = points.parent / "x.npy"
    hidden = data.rename(points.parent / "hidden.npy")
    try:
        code, out, err = call("likelihood", points, *QUICK)
        assert (code, out) == (65, "")
        assert "or say which DATA to judge the run by" in err
        code, out, err = call("likelihood", points, hidden, *QUICK)
        assert (code, out) == (2, "")
        assert "take --variance large, or small" in err
        code, _, err = call("likelihood", points, hidden, *QUICK, "--variance", "large")
        assert code == 0
        assert "Note: The data that the run was trained on are not there" in err
    finally:
        hidden.rename(data)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("gmm:ring9",), "Did you mean 'ring8'?"),
        (("gmm:ring8", "--bits", 8), "--bits and --dequantise are for pictures"),
        (("gmm:ring8", "--average", 0), "--average is for trained runs"),
        (("gmm:ring8", "--trace", "exact", "--probes", 2), "--probes means nothing to --trace exact"),
        (("gmm:ring8", "--tolerance", 1e-4, "--probes", 2), "--probes means nothing to --tolerance"),
        (("gmm:ring8", "--tolerance", 1e-4, "--steps", 9), "--steps and --tolerance exclude each other"),
        (("gmm:ring8", "--tolerance", 1e-4, "--trace", "hutchinson"), "--trace hutchinson and --tolerance exclude"),
        (("gmm:ring8", "--tolerance", 0), "--tolerance"),
        (("gmm:ring8", "--trace", "exact", "--gaussian-probes"), "--gaussian-probes means nothing"),
        (("gmm:ring8", "--probes", 1), "x>=2"),
        (("gmm:ring8", "--variance", "smal"), "Did you mean 'small'?"),
        (("gmm:ring8", "--chain-steps", 0), "x>=1"),
        (("gmm:ring8", "-n", 1), "2<=x"),
        (("gmm:ring8", "--grid", "leading", "--chain-steps", 2000), "a chain of 1000 steps cannot be respaced"),
        ((), "RUN"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(call: Call, words: tuple[Any, ...], hint: str) -> None:
    code, out, err = call("likelihood", *words)
    assert (code, out, "Traceback" in err) == (2, "", False)
    assert hint in err
    assert list(Path().rglob("*")) == []


def test_options_for_pictures_are_refused_for_arrays(call: Call, points: Path) -> None:
    for words, hint in (
        (("--bits", 8), "--bits is for pictures"),
        (("--dequantise", 2), "--dequantise is for pictures"),
    ):
        code, out, err = call("likelihood", points, *QUICK, *words)
        assert (code, out) == (2, "")
        assert hint in err
    code, out, err = call("likelihood", points, "-n", 1000)
    assert (code, out) == (65, "")
    assert "n = 1000 items were asked for" in err
