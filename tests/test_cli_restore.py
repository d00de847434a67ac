"""`scoresde restore`: what it writes, against the library and exact answers; every task, both ways, any size."""

from __future__ import annotations

import inspect
import pkgutil
import shlex
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import restore_cases as cases
import torch
from cli_cases import Call
from PIL import Image

import scoresde as sd
from scoresde import checkpoint, inverse
from scoresde.compare import Counted
from scoresde.data import read_image
from scoresde.inverse import GaussianMeasurement, problems
from scoresde.inverse.guided import Guided
from scoresde.linalg import Identity, gaussian_kernel
from scoresde.metrics import psnr, ssim
from scoresde.mixtures import MIXTURES
from scoresde_cli import names, restoration_methods, restoration_tasks
from scoresde_cli.main import cli
from scoresde_cli.restoration_memory import needed

QUICK = ("--steps", 3, "-n", 3, "--batch-size", 2, "--threads", 1)
TASK_WORDS: dict[str, tuple[Any, ...]] = {
    "inpaint": ("--mask", "box"),
    "deblur": ("--kernel-std", 0.5),
    "motion-deblur": ("--length", 3),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cases.digits_run(tmp_path_factory.mktemp("restore"))


# --- tables --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", names.METHODS)
def test_the_table_of_methods_tells_the_truth(name: str) -> None:
    facts, method = names.METHODS[name], restoration_methods.make(name, 4, 2)
    assert type(method).__name__ == facts.cls
    assert method.exact == facts.exact
    assert method.interacting == facts.interacting
    assert method.solvers == facts.solver == isinstance(method, Guided)
    particles = {field.name for field in fields(method)} & {"particles"}  # type: ignore[arg-type]
    assert bool(particles) == facts.particles
    twist = {field.name for field in fields(method)} & {"twist"}  # type: ignore[arg-type]
    assert bool(twist) == facts.twist


def test_every_method_and_task_is_there() -> None:
    modules = [import_module(f"scoresde.inverse.{each.name}") for each in pkgutil.iter_modules(inverse.__path__)]
    theirs = {name for module in modules for name, value in vars(module).items() if _is_a_choice(value)}
    assert theirs == {facts.cls for facts in names.METHODS.values()}
    assert set(restoration_tasks.MAKERS) == set(names.TASKS) == set(names.DEFAULT_METHODS)
    assert {*names.DEFAULT_METHODS.values(), names.DEFAULT_METHOD_ANY} <= set(names.METHODS)


def _is_a_choice(value: Any) -> bool:
    """A method that needs to be told nothing."""
    if not isinstance(value, type) or not issubclass(value, inverse.Method) or inspect.isabstract(value):
        return False
    return all(each.default is not each.empty for each in inspect.signature(value).parameters.values())


def test_list_methods_has_three_lines_for_each_and_fits_a_terminal(call: Call) -> None:
    code, out, _ = call("restore", "--list-methods")
    assert code == 0
    lines = out.partition("\n\n")[0].splitlines()[1:]
    assert [line.split()[0] for line in lines[::3]] == list(names.METHODS)
    for line, facts in zip(lines[2::3], names.METHODS.values(), strict=True):
        assert line.startswith(f"    exact: {facts.exact or 'never'}; tuning: ")
    assert all(len(line) <= 120 for line in out.splitlines())


def test_the_examples_parse(call: Call) -> None:
    command = cli.get_command(click.Context(cli), "restore")
    assert command is not None
    for name in ("noisy", "torn", "small", "a", "b", "clean", "mask"):
        cases.picture(f"{name}.png")
    np.save("y.npy", np.zeros(1))
    lines = [line for line in (command.epilog or "").splitlines() if line.strip().startswith("scoresde")]
    assert len(lines) > 3
    for line in lines:
        words = shlex.split(line, comments=True)
        parsed = command.make_context("restore", words[2:]).params
        assert parsed["method"] in (None, *names.METHODS)


# --- what is written -----------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [task for task in names.TASKS if task != "colourise"])
def test_every_task_is_simulated_and_restored(call: Call, run: Path, task: str) -> None:
    truth = torch.from_numpy(cases.picture("x.png"))[None]
    words = ("restore", run, "x.png", "--task", task, "--simulate", "--sigma", 0.1, *TASK_WORDS.get(task, ()), *QUICK)
    code, out, err = call(*words, "--out", "out")
    assert (code, out) == (0, "out\n"), err
    mask = ["mask.png"] if task == "inpaint" else []
    each = [f"sample-{i:06d}.{kind}" for i in range(3) for kind in ("npy", "png")]
    assert sorted(p.name for p in Path("out").iterdir()) == sorted([*cases.MADE, *mask, "truth.png", *each])
    found, x = cases.metrics("out"), cases.samples("out")
    results, notes = found["results"], found["notes"]
    np.testing.assert_array_equal(read_image("out/truth.png"), read_image("x.png"))
    np.testing.assert_allclose(np.load("out/mean.npy"), x.mean(0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(np.load("out/std.npy"), x.std(0), rtol=1e-5, atol=1e-6)
    shown = read_image("out/sample-000001.png") / 255
    np.testing.assert_allclose(shown, x[1].clamp(0, 1), atol=0.5 / 255 + 1e-6)
    mean = x.mean(0, keepdim=True).clamp(0, 1)
    assert results["psnr"]["mean"] == pytest.approx(float(psnr(mean, truth)), rel=1e-5)
    assert results["ssim"]["samples"] == pytest.approx(float(ssim(x.clamp(0, 1), truth).mean()), rel=1e-4, abs=1e-6)
    assert 0 <= results["coverage"]["share"] <= 1
    # the noise of the measurement is that asked for, on the scale of the file
    M = np.load("out/measurement.npy").size
    assert abs(results["chi_square"]["truth"] - 1) < 5 * np.sqrt(2 / M)
    assert notes["noise"]["sigma_of_the_model"] == pytest.approx(0.2 if notes["linear"] else 0.1)
    assert notes["linear"] == (task not in names.NOT_LINEAR)
    assert notes["command"].startswith("scoresde restore ")
    assert f"chi-square {results['chi_square']['samples']:.3g}" in err
    facts = names.METHODS[names.DEFAULT_METHODS[task]]
    assert (f"{found['settings']['method']['name']} is not asymptotically exact" in err) == (not facts.exact)


def test_the_samples_are_what_the_library_draws(call: Call, run: Path) -> None:
    """The command is some lines of Python: a picture becomes a measurement of [-1, 1], samples come back."""
    cases.picture("y.png")
    code, _, _ = call(
        *("restore", run, "y.png", "--task", "deblur", "--kernel-std", 0.6, "--sigma", 0.1, "--seed", 3),
        *("--solver", "ddim", "--out", "out", *QUICK),
    )
    assert code == 0
    y = torch.from_numpy(read_image("y.png") / 255)[None]
    A = problems.deblur(gaussian_kernel(0.6))
    z = inverse.posterior_draws(
        checkpoint.load(run),
        GaussianMeasurement(A, 0.2),
        2 * y - A(torch.ones_like(y)),
        method=inverse.MMPS(),
        solver=sd.solvers.DDIM(),
        steps=3,
        n=3,
        seed=3,
        batch_size=2,
    ).x
    np.testing.assert_allclose(cases.samples("out"), (z.double() + 1) / 2, rtol=1e-4, atol=1e-4)
    assert cases.metrics("out")["settings"]["solver"] == {"method": "DDIM", "eta": 0.0}


def test_samples_of_pictures_have_the_law_of_a_gaussian_posterior(call: Call, run: Path) -> None:
    """The prior of this run is N(0, I) on [-1, 1] but for two steps of training, and 1 / 2 of noise there is 1 here."""
    cases.picture("y.png")
    words = ("restore", run, "y.png", "--task", "denoise", "--sigma", 0.5, "-n", 40, "--batch-size", 40)
    assert call(*words, "--steps", 20, "--threads", 1, "--out", "out")[0] == 0
    y = torch.from_numpy(read_image("y.png") / 255)
    mean, std = 0.5 + (y - 0.5) / 2, 0.5 / np.sqrt(2)
    z = (cases.samples("out") - mean) / std
    assert abs(float(z.mean())) < 4 / np.sqrt(z.numel())
    assert abs(float(z.std()) - 1) < 4 / np.sqrt(2 * z.numel())
    assert cases.metrics("out")["results"]["spread"] == pytest.approx(std, rel=0.05)


def test_samples_of_a_mixture_have_the_law_of_its_exact_posterior(call: Call) -> None:
    """By the default for noise alone, which is exact in the limit of many steps."""
    law = MIXTURES["grid25"]()
    y = law.sample(1, 1) + 0.05
    np.save("y.npy", y[0])
    code, _, err = call(
        *("restore", "gmm:grid25", "y.npy", "--task", "denoise", "--sigma", 0.05, "-n", 400, "--batch-size", 400),
        *("--steps", 100, "--out", "out"),
    )
    assert code == 0, err
    exact, x = law.posterior(GaussianMeasurement(Identity(), 0.05), y), cases.samples("out")
    wanted = exact.sample(100_000, 0)
    assert bool(((x.mean(0) - wanted.mean(0)).abs() < 4 * wanted.std(0) / 20).all())
    assert bool(((x.std(0) / wanted.std(0)).log().abs() < 4 / np.sqrt(2 * 400)).all())
    assert cases.metrics("out")["notes"]["noise"]["units"] == "the units of the file"
    with Image.open("out/panel.png") as panel:
        assert panel.size[0] > 100


@pytest.mark.parametrize("task", ["denoise", "inpaint", "superres", "deblur"])
def test_the_measurement_that_was_written_is_restored_to_the_same_samples(call: Call, run: Path, task: str) -> None:
    cases.picture("x.png")
    words = ("--task", task, "--sigma", 0.1, *TASK_WORDS.get(task, ()), *QUICK)
    assert call("restore", run, "x.png", "--simulate", *words, "--out", "a")[0] == 0
    assert call("restore", run, "a/measurement.npy", *words, "--out", "b")[0] == 0
    np.testing.assert_allclose(cases.samples("b"), cases.samples("a"), rtol=1e-3, atol=1e-3)
    assert "psnr" not in cases.metrics("b")["results"]
    # of the picture, which was cut at black and white and rounded, they are others, of the same shape
    words = (*words[:4], "--mask", "a/mask.png", *QUICK) if task == "inpaint" else words
    assert call("restore", run, "a/measurement.png", *words, "--out", "c")[0] == 0
    assert cases.samples("c").shape == cases.samples("a").shape
    assert not Path("b/truth.png").exists()


def test_a_picture_with_holes_is_measured_where_the_mask_is_white(call: Call, run: Path) -> None:
    x = cases.picture("x.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[:, :5] = 255
    Image.fromarray(mask).save("mask.png")
    assert call("restore", run, "x.png", "--task", "inpaint", "--mask", "mask.png", "--sigma", 0.02, *QUICK)[0] == 0
    (folder,) = (run / "restored").glob("x-inpaint-maskmask-*")
    np.testing.assert_allclose(np.load(folder / "measurement.npy"), x[:, :, :5].reshape(1, -1), rtol=1e-6)
    np.testing.assert_array_equal(read_image(folder / "mask.png")[0], mask)


def test_a_grey_picture_is_given_colours_and_deeper_files_stay_deep(call: Call) -> None:
    """By a prior of 16-bit pictures in colour."""
    rng = np.random.default_rng(0)
    np.save("data.npy", rng.integers(0, 65536, size=(20, 3, 6, 6), dtype=np.uint16))
    words = ("--preset", "tiny", "--steps", 1, "--batch-size", 8, "--validate-every", 0, "--sample-every", 0)
    assert call("train", "data.npy", "--predict", "v", "--out", "run", *words)[0] == 0
    Image.fromarray(rng.integers(0, 256, size=(6, 9), dtype=np.uint8)).save("grey.png")
    words = ("--task", "colourise", "--sigma", 0.05, *QUICK, "--out", "out")
    code, _, err = call("restore", "run", "grey.png", *words)
    assert code == 0, err
    assert cases.samples("out").shape == (3, 3, 6, 9)
    assert read_image("out/sample-000000.png").dtype == np.uint16
    np.testing.assert_allclose(np.load("out/measurement.npy"), read_image("grey.png") / 255, rtol=1e-6)
    code, _, err = call("restore", "run", "grey.png", "--task", "denoise", "--sigma", 0.05, *QUICK, "--out", "no")
    assert code == 2
    assert "grey (1 channel), and the prior was trained on pictures that are colour (3 channels)" in err


def test_the_noise_of_a_simulation_depends_on_the_seed_and_the_picture(call: Call, run: Path) -> None:
    for name, number in (("a.png", 5), ("b.png", 6)):
        cases.picture(name, number)
    noise = {}
    for name, seed in (("a.png", 0), ("a.png", 1), ("b.png", 0)):
        words = ("restore", run, name, "--task", "denoise", "--simulate", "--seed", seed, *QUICK)
        assert call(*words, "--out", f"{name}{seed}")[0] == 0
        noise[name, seed] = np.load(f"{name}{seed}/measurement.npy") - read_image(name) / 255
    a, b, c = (values.flatten() for values in noise.values())
    for first, second in ((a, b), (a, c), (b, c)):
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.5


def test_kernels_come_from_files_that_hold_several(call: Call, run: Path) -> None:
    x = torch.from_numpy(cases.picture("x.png"))[None]
    kernels = [np.full((3, 3), 1 / 9), np.eye(3) / 3]
    np.savez("two.npz", *kernels)
    words = ("restore", run, "x.png", "--task", "deblur", "--simulate", "--sigma", 1e-6, *QUICK, "--out", "out")
    assert call(*words, "--kernel", "two.npz:1", "--boundary", "zero")[0] == 0
    expected = problems.deblur(torch.from_numpy(kernels[1]), "zero")(x)
    np.testing.assert_allclose(np.load("out/measurement.npy"), expected[0], atol=1e-4)
    assert call(*words[:-1], "other", "--kernel", "two.npz")[0] == 65


def test_samples_that_do_not_fit_their_measurement_are_doubted(call: Call) -> None:
    """No digit: far from all that the prior knows."""
    np.save("y.npy", np.array([40.0, -40.0]))
    words = ("restore", "gmm:ring8", "y.npy", "--task", "denoise", "-n", 8, "--threads", 1, "--steps", 30)
    _, _, err = call(*words, "--sigma", 3, "--out", "far")
    assert "the samples do not explain the measurement: their residual chi-square is" in err
    np.save("y.npy", np.array([1.5, 0.0]))
    _, _, err = call(*words, "--sigma", 0.5, "--out", "near")
    assert "do not explain" not in err


def test_samples_that_fit_the_noise_are_doubted_too(call: Call) -> None:
    """A clean measurement that is said to be noisy; with the noise that it has there is no doubt."""
    law = MIXTURES["modes64"]()
    np.save("y.npy", law.sample(1, 1)[0] + 0.1 * torch.randn(64, generator=torch.Generator().manual_seed(0)))
    words = ("restore", "gmm:modes64", "y.npy", "--task", "denoise", "--steps", 20, "-n", 20, "--batch-size", 20)
    assert "Note" not in call(*words, "--sigma", 0.1, "--out", "right")[2]
    assert "nearer to the measurement than its noise lets the truth be" in call(*words, "--sigma", 1, "--out", "a")[2]


def test_measured_kernels_and_masks_are_read(call: Call, run: Path, shared_data: Path) -> None:
    """Camera shake from Levin et al. (2009), of 27 x 27, and a mask of text, cut to size."""
    cases.picture("x.png", size=(32, 40))
    words = ("restore", run, "x.png", "--simulate", *QUICK)
    kernel = f"{shared_data / 'blur-kernels/levin09.npz'}:3"
    assert call(*words, "--task", "deblur", "--kernel", kernel, "--out", "a")[0] == 0
    assert cases.metrics("a")["notes"]["operator"] == "Convolution(27 x 27, circular)"
    np.save("mask.npy", np.load(shared_data / "masks-ddrm/lorem3.npy")[:32, :40])
    assert call(*words, "--task", "inpaint", "--mask", "mask.npy", "--out", "b")[0] == 0
    assert np.load("b/measurement.npy").size == np.load("mask.npy").sum()


# --- sizes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["denoise", "superres"])
def test_a_picture_larger_than_the_training_size_is_restored_whole(call: Call, run: Path, task: str) -> None:
    cases.picture("x.png", size=(14, 20))
    code, _, err = call("restore", run, "x.png", "--task", task, "--simulate", *QUICK, "--out", "out")
    assert code == 0
    assert "trained on samples of shape (1, 8, 8), and these have (1, 14, 20)" in err
    assert cases.samples("out").shape == (3, 1, 14, 20)
    small = (1, 7, 10) if task == "superres" else (1, 14, 20)
    assert np.load("out/measurement.npy").shape == small
    code, _, _ = call("restore", run, "out/measurement.png", "--task", task, "--sigma", 0.05, *QUICK, "--out", "again")
    assert cases.samples("again").shape == (3, 1, 14, 20)


def test_memory_is_that_of_the_tensors_that_a_gradient_needs(run: Path) -> None:
    """Against what autograd keeps of a real evaluation."""
    denoiser = checkpoint.load(run)
    x = torch.zeros(1, 1, 8, 8, requires_grad=True)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        answer = denoiser.predict(x, denoiser.sde.at(0.5))
    assert answer.requires_grad
    assert needed(denoiser, (1, 8, 8), gradients=True) == pytest.approx(sum(kept.values()), rel=0.1)
    assert needed(denoiser, (1, 32, 32), gradients=True) > 4 * needed(denoiser, (1, 8, 8), gradients=True)
    assert needed(denoiser, (1, 64, 64), gradients=False) < needed(denoiser, (1, 64, 64), gradients=True)


# --- several pictures ----------------------------------------------------------------------------------


def test_each_of_several_pictures_has_its_folder_and_all_have_a_mean(call: Call, run: Path) -> None:
    Path("other").mkdir()
    for name, number in (("a.png", 5), ("b.png", 6), ("other/a.png", 7), ("a-2.png", 8)):
        cases.picture(name, number)
    words = ("--task", "denoise", "--simulate", *QUICK)
    code, out, err = call("restore", run, "a.png", "b.png", "other/a.png", "a-2.png", *words, "--out", "all")
    assert (code, out) == (0, "all\n")
    assert "Mean of 4 pictures: residual chi-square" in err
    found = cases.metrics("all")
    assert list(found["pictures"]) == ["a", "b", "a-2", "a-2-2"]
    each = [cases.metrics(f"all/{name}")["results"] for name in found["pictures"]]
    assert found["mean"]["psnr"]["mean"] == pytest.approx(np.mean([one["psnr"]["mean"] for one in each]))
    assert found["mean"]["coverage"]["share"] == pytest.approx(np.mean([one["coverage"]["share"] for one in each]))
    assert call("restore", run, "b.png", *words, "--out", "one")[0] == 0
    assert cases.contents("one") == cases.contents("all/b")  # whatever its companions


# --- methods -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", names.METHODS)
def test_every_method_restores_a_picture_in_the_steps_that_it_is_asked_for(call: Call, run: Path, name: str) -> None:
    """On a few pixels of a picture, or where that is not for it, on noise alone."""
    cases.picture("x.png")
    facts = names.METHODS[name]
    task = ("denoise",) if facts.operators == names.IDENTITY else ("inpaint", "--mask", "random", "--keep", 0.1)
    particles = ("--particles", 6) if facts.particles else ()
    words = ("restore", run, "x.png", "--task", *task, "--simulate", "--sigma", 0.1, "--method", name, *particles)
    code, _, err = call(*words, "--steps", 5, "-n", 3, "--batch-size", 3, "--threads", 1, "--out", "out")
    assert code == 0, err
    assert "step 5/5" in err
    assert bool(cases.samples("out").isfinite().all())
    effort = cases.metrics("out")["effort"]
    assert effort["evaluations"] > 0
    assert (effort["gradients"] == 0) == (facts.gradients == names.NO)
    seen = torch.from_numpy(read_image("out/mask.png")[0] > 0) if len(task) > 1 else torch.ones(8, 8).bool()
    error = (cases.samples("out") - torch.from_numpy(read_image("out/truth.png") / 255))[..., seen]
    assert float(error.square().mean().sqrt()) < 0.4 or facts.tuning != names.NO_TUNING


@pytest.mark.parametrize("name", names.METHODS)
def test_steps_and_evaluations_are_those_of_the_table(name: str) -> None:
    facts, steps = names.METHODS[name], 0

    def on_step() -> None:
        nonlocal steps
        steps += 1

    denoiser = Counted(MIXTURES["ring8"]().denoiser(sd.VP()))
    measurement, y = GaussianMeasurement(Identity(), 0.5), torch.tensor([[1.0, 0.5]])
    method = restoration_methods.make(name, 4, 2)
    inverse.posterior_draws(denoiser, measurement, y, method=method, n=4, on_step=on_step)
    assert facts.steps - 1 <= steps <= facts.steps  # one that is next to nothing may be left out
    assert denoiser.samples / (4 * steps) == pytest.approx(int(facts.evaluations.split()[0]), rel=0.1)


@pytest.mark.parametrize("name", [name for name, facts in names.METHODS.items() if facts.interacting])
def test_samples_that_are_made_together_are_kept_together_or_not_at_all(call: Call, name: str) -> None:
    """With the evidence, in the units of the user, and the effective sample size."""
    law = MIXTURES["ring8"]()
    y = torch.tensor([[1.2, 0.3]], dtype=torch.float64)
    np.save("y.npy", y[0])
    words = ("restore", "gmm:ring8", "y.npy", "--task", "denoise", "--sigma", 0.3, "--method", name, "--threads", 1)
    words = (*words, "--steps", 60, "--particles", 200, "--batch-size", 200, "--out", "out")
    assert call(*words, "-n", 200)[0] == 0
    noisy = sd.GaussianMixture(law.weights, law.means, law.covariances + 0.09 * torch.eye(2, dtype=torch.float64))
    effort = cases.metrics("out")["effort"]
    assert effort["log_evidence"] == pytest.approx(float(noisy.log_prob(y)), abs=0.3)
    exact, x = law.posterior(GaussianMeasurement(Identity(), 0.3), y).sample(20_000, 0), cases.samples("out")
    assert bool(((x.mean(0) - exact.mean(0)).abs() < 0.3 * exact.std(0)).all())
    before = cases.contents("out")
    Path("out/sample-000007.npy").unlink()
    code, _, err = call(*words, "-n", 200)
    assert code == 0
    assert "there already" not in err
    assert cases.contents("out") == before
    code, _, err = call(*words, "-n", 100)
    assert code == 2
    assert "n is 200 there and 100 here" in err


@pytest.mark.parametrize("twist", [None, *names.TWISTS])
def test_particles_are_steered_by_what_is_asked_for_or_goes_with_the_measurement(
    call: Call, run: Path, twist: str | None
) -> None:
    """64 entries are for mmps, and 100 too many for it."""
    for size, usual in (((8, 8), "MMPS"), ((10, 10), "PiGDM")):
        cases.picture("x.png", size=size)
        words = ("restore", run, "x.png", "--task", "denoise", "--simulate", "--method", "twisted-smc")
        words = (*words, *(() if twist is None else ("--twist", twist)), "--steps", 2, "-n", 2, "--particles", 2)
        code, _, err = call(*words, "--threads", 1, "--out", f"out-{size[0]}")
        if twist == "mmps" and usual == "PiGDM":
            assert code == 2
            assert "the measurement, which has 100; up to 64 will do: take --twist pigdm or tmpd" in err
            return
        assert code == 0, err
        wanted = usual if twist is None else names.METHODS[twist].cls
        assert f"twist={wanted}(" in cases.metrics(f"out-{size[0]}")["settings"]["method"]["choices"]
