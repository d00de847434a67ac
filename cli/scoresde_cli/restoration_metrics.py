"""What the samples of a posterior are worth: how they fit the measurement, and the truth where it is known."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from scoresde.inverse import Draws
from scoresde.metrics import psnr, ssim
from scoresde.metrics.calibration import interval_coverage, spread_skill
from scoresde_cli.restoration_folder import plain
from scoresde_cli.restoration_problem import Restoration

LEVEL = 0.9
DOUBT = 4.0  # standard deviations
CLOSE = 0.5  # a residual chi-square below which samples fit the noise


def of_samples(of: Restoration, samples: Tensor, *, pictures: bool) -> dict[str, Any]:
    """All there is to say of samples (n, *), float64 in the user's units.

    Args:
        pictures: on the scale [0, 1], for PSNR (dB) and SSIM.
    """
    found: dict[str, Any] = {"n": len(samples), "chi_square": _fit(of, samples)}
    if len(samples) > 1:
        found["spread"] = float(samples.var(0).mean().sqrt())
    return found if of.truth is None else found | _nearness(of, of.truth, samples, pictures=pictures)


def _fit(of: Restoration, samples: Tensor) -> dict[str, Any]:
    """Residual chi-square |y - A(x)|^2 / sigma^2 / M.

    Of the truth it is 1 within a few of its standard deviations, and so it is, on average, of samples of the posterior.
    """
    each = of.measurement.chi_square(samples, of.y)
    return {
        "samples": float(each.mean()),
        "each": [round(value, 6) for value in each.tolist()],
        "truth": None if of.truth is None else float(of.measurement.chi_square(of.truth, of.y)),
        "standard_deviation_at_truth": math.sqrt(2.0 / of.y[0].numel()),
    }


def _nearness(of: Restoration, truth: Tensor, samples: Tensor, *, pictures: bool) -> dict[str, Any]:
    """How near they and their mean are to the truth, and whether their spread tells how near."""
    shown = {"mean": samples.mean(0, keepdim=True), "samples": samples}
    if of.y.shape == truth.shape:
        shown["measurement"] = of.y
    found: dict[str, Any] = {"rmse": {name: _rmse(x, truth) for name, x in shown.items()}}
    if pictures:
        for word, measure in (("psnr", psnr), ("ssim", ssim)):
            found[word] = {name: _number(measure(x.clamp(0.0, 1.0), truth).mean()) for name, x in shown.items()}
    if len(samples) > 1:
        level = min(LEVEL, 1.0 - 2.0 / (len(samples) + 1))  # beyond which so many do not reach
        found["coverage"] = {"level": level, "share": interval_coverage(truth, samples[None], level).share}
        if bool((samples.var(0) > 0).any()):
            found["spread_skill"] = spread_skill(truth, samples[None])
    return found


def words(found: dict[str, Any]) -> str:
    """The gist, for the terminal."""
    chi = found["chi_square"]
    parts = [f"residual chi-square {chi['samples']:.3g}"]
    if chi.get("truth") is not None:
        parts[0] += f" ({chi['truth']:.3g} at the truth)"
    for word, unit in (("psnr", " dB"), ("ssim", "")):
        values = found.get(word, {})
        said = [f"{name} {value:.3g}" for name, value in values.items() if value is not None]
        if said:
            parts.append(f"{word.upper()} of the {', '.join(said)}{unit}")
    if "rmse" in found and "psnr" not in found:
        parts.append(f"error of the mean {found['rmse']['mean']:.3g}")
    if "coverage" in found:
        level, share = (found["coverage"][key] for key in ("level", "share"))
        parts.append(f"{level:.0%} intervals hold {share:.0%} of the truth")
    return "; ".join(parts)


def doubts(found: dict[str, Any]) -> str | None:
    """What to say when samples are further from the measurement than its noise allows, or much nearer; else None."""
    chi = found["chi_square"]
    margin = DOUBT * chi["standard_deviation_at_truth"]
    if chi["samples"] > 1.0 + margin:
        return (
            f"Note: the samples do not explain the measurement: their residual chi-square is {chi['samples']:.3g}, and "
            f"at the truth it is below {1.0 + margin:.3g}. Take more --steps or another --method, and check --sigma "
            "and the task"
        )
    if chi["samples"] < min(CLOSE, 1.0 - margin):
        return (
            f"Note: the samples are nearer to the measurement than its noise lets the truth be: their residual "
            f"chi-square is {chi['samples']:.3g}, and should be about 1. Is --sigma too large, or another --method "
            "better?"
        )
    return None


def _rmse(x: Tensor, truth: Tensor) -> float:
    return float((x - truth).square().mean().sqrt())


def _number(value: Tensor) -> float | None:
    """As JSON has it: a PSNR without error is infinite, which JSON does not know."""
    return float(value) if math.isfinite(float(value)) else None


def of_draws(of: Restoration, draws: Draws) -> dict[str, Any]:
    """What the method knows of its draws, the evidence log p(y) in nats with y in the user's units."""
    weights, evidence = draws.log_weights, draws.log_evidence
    if evidence is not None:
        evidence -= of.y[0].numel() * math.log(of.for_model().scale)
    return {
        "log_evidence": evidence,
        "ess": None if weights is None else float(1.0 / torch.softmax(weights.double(), 0).square().sum()),
        "diagnostics": plain(dict(draws.diagnostics)),
    }


def average(many: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean over pictures of every number that all have; lists are left out."""
    means: dict[str, Any] = {}
    for key, value in many[0].items():
        others = [each.get(key) for each in many]
        if isinstance(value, dict) and all(isinstance(other, dict) for other in others):
            means[key] = average([dict(other) for other in others if other is not None])
        elif all(isinstance(other, float) for other in others):
            means[key] = math.fsum(float(other) for other in others if other is not None) / len(others)
    return {key: value for key, value in means.items() if value != {}}
