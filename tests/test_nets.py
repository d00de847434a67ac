"""Networks: shapes, independence of samples, derivatives of every kind, and that they learn."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn as nn

from scoresde.nets import MLP, MLP_PRESETS, PARAMETER_TABLE, UNET_PRESETS, UNet, build, parameter_count
from scoresde.nets.embedding import FiLM, LevelEmbedding, zero
from scoresde.nets.unet import pad_to_multiple

IMAGE_SIZES = [(28, 28), (8, 8), (5, 7), (1, 1), (1, 9), (13, 2), (3, 3)]


def awake(network: nn.Module) -> nn.Module:
    """The network with its silent parameters set to random values, as after some training."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return network.eval()


def unet(**changes: object) -> UNet:
    torch.manual_seed(0)
    return UNet(**{"channels": 2, "width": 8, "blocks": 1, **changes})


def mlp() -> MLP:
    torch.manual_seed(0)
    return MLP((2, 3), width=16, depth=2)


NETWORKS = {
    "unet": (unet, (2, 6, 7)),
    "attention at two levels": (lambda: unet(attention=(0, 2), heads=2), (2, 6, 7)),
    "mlp": (mlp, (2, 3)),
}
each_network = pytest.mark.parametrize(("make", "shape"), NETWORKS.values(), ids=NETWORKS)


def inputs(shape: tuple[int, ...], n: int = 3, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, *shape, generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.linspace(-8, 8, n, dtype=dtype)


@pytest.mark.parametrize("size", IMAGE_SIZES)
@pytest.mark.parametrize("levels", [1, 3, 4])
def test_a_picture_of_any_size_keeps_its_shape(size: tuple[int, int], levels: int) -> None:
    network = awake(unet(multipliers=(1,) * levels))
    x, level = inputs((2, *size))
    y = network(x, level)
    assert y.shape == x.shape
    assert y.isfinite().all()
    assert y.abs().max() > 0


@pytest.mark.parametrize("shape", [(2,), (5, 4), (1,), (2, 3, 4, 5)])
def test_an_array_of_any_shape_keeps_its_shape(shape: tuple[int, ...]) -> None:
    x, level = inputs(shape)
    assert awake(MLP(shape, width=8, depth=1))(x, level).shape == x.shape


@pytest.mark.parametrize("width", [4, 8, 12])
def test_normalisation_does_not_erase_a_picture_of_one_pixel(width: int) -> None:
    network = awake(unet(width=width, multipliers=(1,)))
    x, level = inputs((2, 1, 1))
    assert (network(x, level) - network(-x, level)).abs().max() > 1e-3


def test_padding_repeats_the_edge() -> None:
    x = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    expected = torch.tensor([[[[1.0, 2.0, 3.0, 3.0], [1.0, 2.0, 3.0, 3.0]]]])
    assert torch.equal(pad_to_multiple(x, 2), expected)
    assert pad_to_multiple(x[..., :2].expand(1, 1, 2, 2), 2).shape == (1, 1, 2, 2)


@each_network
def test_the_output_is_zero_at_initialisation(make, shape) -> None:  # type: ignore[no-untyped-def]
    x, level = inputs(shape)
    assert torch.equal(make()(x, level), torch.zeros_like(x))


@each_network
def test_the_gradient_reaches_every_parameter(make, shape) -> None:  # type: ignore[no-untyped-def]
    network = awake(make())
    network(*inputs(shape)).square().sum().backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


@each_network
def test_a_sample_does_not_depend_on_its_companions(make, shape) -> None:  # type: ignore[no-untyped-def]
    network = awake(make())
    x, level = inputs(shape, n=4)
    other_x, other_level = 100 * x, level - 3
    other_x[2], other_level[2] = x[2], level[2]
    with torch.no_grad():
        assert torch.equal(network(x, level)[2], network(other_x, other_level)[2])


@each_network
def test_a_scalar_condition_serves_the_whole_batch(make, shape) -> None:  # type: ignore[no-untyped-def]
    network = awake(make())
    x, _ = inputs(shape)
    assert torch.equal(network(x, torch.tensor(1.5)), network(x, torch.full((3,), 1.5)))


@each_network
def test_float64_agrees_with_float32(make, shape) -> None:  # type: ignore[no-untyped-def]
    network = awake(make())
    x, level = inputs(shape)
    single = network(x, level)
    double = network.double()(x.double(), level.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)


@each_network
def test_forward_and_reverse_derivatives_agree_with_differences(make, shape) -> None:  # type: ignore[no-untyped-def]
    network = awake(make()).double()
    x, level = inputs(shape, dtype=torch.float64)
    v, w = torch.sin(7 * x), torch.cos(5 * x)

    def f(x: torch.Tensor) -> torch.Tensor:
        return network(x, level)

    _, jv = torch.func.jvp(f, (x,), (v,))
    _, pullback = torch.func.vjp(f, x)
    assert torch.allclose((w * jv).sum(), (pullback(w)[0] * v).sum(), rtol=1e-10)

    step = 1e-5
    torch.testing.assert_close(jv, (f(x + step * v) - f(x - step * v)) / (2 * step), rtol=1e-5, atol=1e-8)


@each_network
def test_second_derivatives_exist_and_are_symmetric(make, shape) -> None:  # type: ignore[no-untyped-def]
    network = awake(make()).double()
    x, level = inputs(shape, dtype=torch.float64)
    v, w = torch.sin(7 * x), torch.cos(5 * x)
    gradient = torch.func.grad(lambda x: network(x, level).square().sum())
    _, Hv = torch.func.jvp(gradient, (x,), (v,))
    Hw = torch.func.grad(lambda x: (gradient(x) * w).sum())(x)
    assert Hv.abs().max() > 0
    assert torch.allclose((w * Hv).sum(), (v * Hw).sum(), rtol=1e-9)


def test_channels_last_gives_the_same_values() -> None:
    network = awake(unet())
    x, level = inputs((2, 12, 10))
    expected = network(x, level)
    network.to(memory_format=torch.channels_last)
    y = network(x.to(memory_format=torch.channels_last), level)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)


def test_derivatives_exist_in_channels_last_too() -> None:
    """There torch would take a fused attention kernel, which has no forward-mode derivative."""
    network = awake(unet()).to(memory_format=torch.channels_last)
    x, level = inputs((2, 8, 8))
    x = x.to(memory_format=torch.channels_last)
    gradient = torch.func.grad(lambda x: network(x, level).square().sum())
    v = torch.sin(7 * x)
    _, Jv = torch.func.jvp(lambda x: network(x, level), (x,), (v,))
    _, Hv = torch.func.jvp(gradient, (x,), (v,))

    plain = network.to(memory_format=torch.contiguous_format)
    x, v = x.contiguous(), v.contiguous()
    _, expected = torch.func.jvp(lambda x: plain(x, level), (x,), (v,))
    torch.testing.assert_close(Jv, expected, rtol=1e-4, atol=1e-5)
    _, expected = torch.func.jvp(torch.func.grad(lambda x: plain(x, level).square().sum()), (x,), (v,))
    torch.testing.assert_close(Hv, expected, rtol=1e-4, atol=1e-5)


def test_dropout_is_silent_in_evaluation_and_audible_in_training() -> None:
    network = awake(unet(dropout=0.5))
    x, level = inputs((2, 8, 8))
    assert torch.equal(network(x, level), network(x, level))
    torch.manual_seed(0)
    network.train()
    assert not torch.equal(network(x, level), network(x, level))


def test_no_label_means_the_class_after_the_last() -> None:
    network = awake(unet(classes=3))
    x, level = inputs((2, 8, 8))
    no_class = torch.full((3,), 3)
    assert torch.equal(network(x, level), network(x, level, no_class))
    assert not torch.allclose(network(x, level), network(x, level, torch.tensor([0, 1, 2])))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_embedding_is_finite_for_any_finite_level(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    level = torch.tensor([-largest, -20, 0, 20, largest], dtype=dtype)
    embedding = LevelEmbedding(16)(level)
    assert embedding.dtype == torch.float32
    assert embedding.isfinite().all()


def test_the_embedding_of_a_half_precision_level_is_that_of_the_same_number() -> None:
    embedding, level = LevelEmbedding(16), torch.tensor([-19.5, 3.25], dtype=torch.bfloat16)
    assert torch.equal(embedding(level), embedding(level.float()))


def test_film_without_parameters_changes_nothing() -> None:
    h = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(zero(FiLM(8, 3))(h, torch.ones(2, 8)), h)


def test_levels_a_tenth_apart_are_told_apart_over_the_whole_range() -> None:
    """With the exact features: neighbours differ by about 0.1 omega, and distant levels are never alike."""
    embedding = LevelEmbedding(16).double()
    level = torch.arange(-200, 201, dtype=torch.float64) / 10
    phase = level[:, None] * embedding.omega
    features = torch.cat([phase.sin(), phase.cos()], 1) / len(embedding.omega) ** 0.5
    distance = torch.cdist(features, features) + 10 * torch.eye(len(level), dtype=torch.float64)
    assert distance.min() > 0.03
    assert torch.equal(distance.argmin(0).sub(torch.arange(len(level))).abs().max(), torch.tensor(1))


@pytest.mark.parametrize(
    "make",
    [lambda: UNet(1, width=8, multipliers=(1, 2), blocks=1), lambda: MLP((1, 4, 4), width=64, depth=2)],
    ids=["unet", "mlp"],
)
def test_it_learns_a_regression_that_needs_the_level(make: Callable[[], nn.Module]) -> None:
    """Target: x scaled by tanh(level / 4). Ignoring the level leaves a mean square of 0.5."""
    torch.manual_seed(0)
    network = make()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(200):
        x = torch.randn(64, 1, 4, 4, generator=generator)
        level = 16 * torch.rand(64, generator=generator) - 8
        target = x * torch.tanh(level / 4)[:, None, None, None]
        loss = (network(x, level) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) / 20 < 0.2

    x = torch.randn(1, 1, 4, 4, generator=generator)
    assert (network(x, torch.tensor([6.0])) * network(x, torch.tensor([-6.0]))).sum() < 0


@pytest.mark.parametrize("preset", PARAMETER_TABLE)
def test_the_table_of_sizes_is_true(preset: str) -> None:
    picture, vector = PARAMETER_TABLE[preset]
    assert parameter_count(build(preset, (1, 28, 28))) == picture
    assert parameter_count(build(preset, (2,))) == vector


def test_the_presets_have_the_same_names_everywhere() -> None:
    assert list(UNET_PRESETS) == list(MLP_PRESETS) == list(PARAMETER_TABLE)


def test_the_table_of_sizes_does_not_import_torch() -> None:
    code = "import sys; from scoresde.nets import PARAMETER_TABLE; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_preset_is_told_its_neighbour() -> None:
    with pytest.raises(ValueError, match=r"'smal'.*tiny, small, base; did you mean small\?"):
        build("smal", (2,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"multipliers": ()}, "multipliers"),
        ({"attention": (3,)}, r"names level 3; this network has levels 0\.\.2"),
        ({"heads": 3}, "heads must divide the 16 channels of level 2, got 3"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"classes": 0}, "classes"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unet(**changes)


def test_inputs_that_do_not_fit_are_refused() -> None:
    x, level = inputs((2, 8, 8))
    with pytest.raises(ValueError, match=r"x must be \(B, 2, H, W\), got \(3, 1, 8, 8\)"):
        unet()(x[:, :1], level)
    with pytest.raises(ValueError, match=r"condition must be \(B,\) = \(3,\) or \(\), got \(2,\)"):
        unet()(x, level[:2])
    with pytest.raises(TypeError, match="floating-point"):
        unet()(x, torch.tensor(3))
    with pytest.raises(ValueError, match="takes no label"):
        unet()(x, level, torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"x must be \(B, 2, 3\), got \(3, 3, 2\)"):
        mlp()(torch.zeros(3, 3, 2), level)
    with pytest.raises(ValueError, match="positive sizes"):
        build("tiny", ())
