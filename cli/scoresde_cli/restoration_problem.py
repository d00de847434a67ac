"""One IMAGE as a problem to solve: x, y and the measurement, in the user's units and in those of the prior."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from scoresde import inverse
from scoresde._tensors import scale
from scoresde.denoisers import Denoiser, Wrapped
from scoresde.errors import NumericalError
from scoresde.inverse import Draws, GaussianMeasurement
from scoresde.inverse.units import PICTURES, ModelMeasurement, Units
from scoresde.parameterisations import PredictsX0
from scoresde.recipe import Space
from scoresde.sde import Level
from scoresde_cli import names, restoration_methods
from scoresde_cli import restoration_inputs as inputs
from scoresde_cli import restoration_memory as memory
from scoresde_cli.restoration_setting import Setting


@dataclass(frozen=True)
class Restoration:
    """What is known of one IMAGE before anything is drawn.

    Args:
        shape: of one x.
        measurement, y: in the user's units; y is (1, *) float64.
        truth: (1, *) likewise, where it is known.
        units: from these to those of the prior.
        digest: of the file.
        mask: (H, W), what of x is kept, where that is what was done.
    """

    path: Path
    shape: tuple[int, ...]
    measurement: GaussianMeasurement
    y: Tensor
    truth: Tensor | None
    units: Units
    digest: str
    mask: Tensor | None

    def for_model(self) -> ModelMeasurement:
        """The measurement in the units of the prior."""
        return self.units.measurement(self.measurement.operator, self.measurement.noise_std, self.shape)

    def seen(self, space: Space) -> Tensor | None:
        """The measurement as a picture, (1, C, h, w) from 0 to 1, holes black; None when it is none."""
        if space.kind != "image":
            return None
        y, operator = self.y, self.measurement.operator
        if not _picture(y) and operator.linear:
            y = operator.as_linear().adjoint(y)
        return y if _picture(y) else None


def _picture(y: Tensor) -> bool:
    return y.ndim == 4 and y.shape[1] in (1, 3)


def units(space: Space) -> Units:
    """Pictures go from 0 to 1 for the user and from -1 to 1 for the prior; arrays are standardised for it."""
    return PICTURES if space.kind == "image" else Units(space.std, space.mean)


def prepare(setting: Setting, path: Path, *, looked_at: bool = False) -> Restoration:
    """Read a file and make the problem.

    Args:
        looked_at: it was prepared before, so that there is memory for it.

    Raises:
        DataError: a file that cannot be used; UsageError, ValueError: one that does not go with the prior or the task.
    """
    task, space, wish = setting.task, setting.model.space, setting.wish
    found = inputs.look(path, space)
    shape = found.shape if wish.simulate else task.x_shape(found.shape, space.shape)
    inputs.check_shape(path, shape, space)
    if not looked_at:
        memory.check(
            setting.model.denoiser, shape, wish.batch_size, setting.plan.facts.gradients != names.NO, str(path)
        )
    operator = task.operator(shape)
    restoration_methods.check_operator(setting.plan, operator, task.name)
    restoration_methods.check_noise(setting.plan, wish.sigma, units(space), setting.model.denoiser)
    measurement = GaussianMeasurement(operator, wish.sigma)
    values, digest = found.read(), found.digest()
    if task.name in names.TASKS and space.kind == "image":
        inputs.check_scale(path, values, 0.0 if wish.simulate else wish.sigma)
    mask = None if task.mask is None else task.mask(shape)
    if not wish.simulate:
        y = task.measured(values, operator, shape, path)[None]
        return Restoration(path, shape, measurement, y, None, units(space), digest, mask)
    truth = values[None]
    # other pictures, and other seeds, have other noise
    word = hashlib.sha256(f"{wish.seed} {digest}".encode()).digest()
    y = measurement.simulate(truth, int.from_bytes(word[:8], "little"))
    return Restoration(path, shape, measurement, y, truth, units(space), digest, mask)


def draw(
    setting: Setting,
    denoiser: Denoiser,
    of: Restoration,
    ids: list[int],
    *,
    steps: int | None = None,
    batch_size: int | None = None,
    on_step: Callable[[], None] | None = None,
) -> Draws:
    """Draws of x given y, in the units of the prior; the rest as for `posterior_draws`."""
    measured = of.for_model()
    return inverse.posterior_draws(
        denoiser,
        measured.measurement,
        measured.to_model(of.y),
        method=setting.plan.method(of.y[0].numel()),
        solver=setting.plan.solver,
        ids=ids,
        seed=setting.wish.seed,
        shape=of.shape,
        steps=steps,
        batch_size=batch_size,
        on_step=on_step,
    )


def rehearse(setting: Setting, of: Restoration) -> None:
    """Take one step without the network, so that a method refuses a problem before anything is drawn.

    Raises:
        ValueError: it does.
    """
    steps = None if setting.plan.steps is None else 1
    with contextlib.suppress(NumericalError):  # says nothing of the real run
        draw(setting, Gaussian(setting.model.denoiser, of.shape), of, [0], steps=steps)


class Gaussian(Wrapped):
    """The denoiser of data of `shape` that are N(0, data_std^2 I), in the place of a network."""

    def __init__(self, inner: Denoiser, shape: tuple[int, ...]) -> None:
        super().__init__(inner, PredictsX0())
        self.shape = shape

    def predict(self, x: Tensor, t: Level) -> Tensor:
        variance = self.data_std**2
        return scale(t.alpha * variance / (t.alpha**2 * variance + t.sigma**2), x)
