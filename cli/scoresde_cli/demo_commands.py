"""The commands that the demo's page ends with: how to get its results again, and where to go from there."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from scoresde_cli.demo_mixture import BATCH, EXACT_SEED, NAME
from scoresde_cli.demo_restoration import Restored
from scoresde_cli.demo_study import Drawn


def again(
    run: Path, drawn: list[Drawn], restored: list[Restored], files: list[Path], seed: int, threads: int | None
) -> str:
    """Train the same network, draw the same samples, and restore the same digits."""
    as_many = "" if threads is None else f" --threads {threads}"
    prior, digits = quote(str(run)), " ".join(quote(str(file)) for file in files)
    return "\n".join(
        [
            f"scoresde train --config {quote(str(run / 'config.toml'))} --out again{as_many}",
            *(f"scoresde sample {prior} {x.options} --seed {seed} -n {len(x.samples)}" for x in drawn),
            *(f"scoresde restore {prior} {digits} --simulate {x.options} --seed {seed}{as_many}" for x in restored),
        ]
    )


def again_in_python(points: int, seed: int) -> str:
    """The distance of the adaptive solver's points to exact draws of the mixture."""
    return (
        "import scoresde as sd\n\n"
        f'prior = sd.MIXTURES["{NAME}"]()\n'
        "denoiser = prior.denoiser(sd.VP())\n"
        f"x = sd.sample(denoiser, sd.solvers.RK45(), n={points}, seed={seed}, batch_size={BATCH})\n"
        f"print(sd.metrics.sliced_wasserstein(x, prior.sample({points}, seed={EXACT_SEED})))"
    )


def from_here(run: Path) -> str:
    """What a newcomer may try next."""
    lines = {
        f"scoresde sample {quote(str(run))}": "more digits, with UniPC",
        "scoresde sample --list-solvers": "every solver, its order and cost",
        "scoresde sample gmm:two-moons --solver em --steps 20 -n 500": "too coarse steps, on another mixture",
        "scoresde restore --list-methods": "fourteen ways to restore",
        f"scoresde info {quote(str(run))}": "what the run is",
        "scoresde train FOLDER --size 32 --out runs/mine": "pictures of your own",
        "scoresde sample runs/mine": "",
    }
    width = max(map(len, lines)) + 2
    return "\n".join(f"{line:{width}}# {remark}" if remark else line for line, remark in lines.items())
