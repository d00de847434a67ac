"""Recipes: plain data that survive a round trip, and nothing unknown passes."""

from pathlib import Path

import numpy as np
import pytest
import torch

import scoresde as sd
from scoresde import recipe
from scoresde.recipe import Recipe, Space


def test_a_recipe_survives_toml_and_dictionaries(tmp_path: Path) -> None:
    config = Recipe().with_values(
        data={"source": 'a "quoted" \\ folder', "size": 32, "flip": True},
        process={"name": "ve", "sigma_max": 30.0},
        network={"preset": "tiny", "predict": "edm"},
        training={"steps": 12, "learning_rate": 3e-4, "ema": [0.9, 0.999], "clip": float("inf")},
    )
    path = tmp_path / "config.toml"
    path.write_text(recipe.to_toml(config))
    assert recipe.read_toml(path) == config
    assert Recipe.from_dict(config.to_dict()) == config
    assert recipe.process(config) == sd.VE(0.01, 30.0)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"trainin": {}}, "section 'trainin' is unknown.*Did you mean 'training'"),
        ({"training": {"step": 3}}, "key 'step' is unknown.*Did you mean 'steps'"),
        ({"training": {"steps": "many"}}, "steps = 'many'; it must be of type int"),
        ({"training": {"steps": 0}}, "steps = 0"),
        ({"training": {"compile": 1}}, "compile = 1"),
        ({"training": {"ema": [1.5]}}, None),
        ({"process": {"name": "vpp"}}, "Did you mean 'vp'"),
        ({"process": {"name": "vp", "beta_mx": 3}}, "parameter of the vp process 'beta_mx'"),
        ({"process": {"name": "vp", "beta_max": "x"}}, "must be a number"),
        ({"network": {"predict": "noise"}}, "choose from eps, x0, v, score, edm"),
        ({"training": 3}, "must be a section"),
    ],
)
def test_what_is_unknown_or_wrong_is_refused(sections: dict, message: str | None) -> None:
    if message is None:  # found where the averages are made
        config = Recipe.from_dict(sections)
        with pytest.raises(ValueError, match=r"EMA decay = 1\.5"):
            recipe.training_state(config, Space("array", (2,)))
        return
    with pytest.raises(ValueError, match=message):
        Recipe.from_dict(sections)


def test_a_file_that_is_not_toml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("steps = = 3")
    with pytest.raises(ValueError, match=r"bad\.toml is not a TOML file"):
        recipe.read_toml(path)


def test_pictures_come_back_as_they_were() -> None:
    for levels, dtype in ((256, np.uint8), (65536, np.uint16)):
        space = Space("image", (1, 2, 2), levels=levels)
        values = np.array([0, 1, levels // 2, levels - 1], dtype)
        model = torch.as_tensor(values.astype(np.float64)) / ((levels - 1) / 2) - 1
        np.testing.assert_array_equal(space.to_user(model), values)
        assert space.to_user(torch.tensor([-7.0, 7.0])).tolist() == [0, levels - 1]


def test_arrays_are_scaled_as_a_whole_and_back() -> None:
    dataset = recipe.open_dataset(recipe.DataRecipe("gmm:uneven", n=2000))
    space = recipe.space_of(dataset)
    x = space.to_model(dataset.batch(np.arange(2000)))
    assert x.mean().item() == pytest.approx(0, abs=1e-6)
    assert x.std(correction=0).item() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(space.to_user(x), dataset.array, rtol=1e-5, atol=1e-6)


def test_the_initial_network_depends_on_the_seed_alone() -> None:
    config, space = Recipe().with_values(network={"preset": "tiny"}), Space("array", (2,))
    before = torch.random.get_rng_state()
    one, two = recipe.denoiser(config, space), recipe.denoiser(config, space)
    other = recipe.denoiser(config.with_values(training={"seed": 1}), space)
    assert torch.equal(before, torch.random.get_rng_state())
    pairs = [list(d.module.parameters()) for d in (one, two, other)]
    assert all(torch.equal(a, b) for a, b in zip(pairs[0], pairs[1], strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(pairs[0], pairs[2], strict=True))


@pytest.mark.parametrize("name", recipe.PROCESSES)
@pytest.mark.parametrize("predict", recipe.PARAMETERISATIONS)
def test_every_combination_builds_and_samples(name: str, predict: str) -> None:
    config = Recipe().with_values(process={"name": name}, network={"preset": "tiny", "predict": predict})
    denoiser = recipe.denoiser(config, Space("array", (2,)))
    impossible = predict in ("eps", "score") and denoiser.sde.at(1.0).alpha == 0
    if impossible:
        with pytest.raises(ValueError, match="use a network that predicts x0 or v"):
            sd.sample(denoiser, steps=2)
    else:
        assert sd.sample(denoiser, steps=2, n=2).shape == (2, 2)
