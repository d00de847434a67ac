"""`scoresde train`: options, and what they set going."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from scoresde.nets import PARAMETER_TABLE
from scoresde_cli import names
from scoresde_cli.options import (
    SEEDS,
    Choice,
    Command,
    device_options,
    examples,
    given,
    option,
    process_options,
    same_command,
)

DATA, NETWORK, TRAINING, RECORDS, RUNNING = "Data", "Network", "Training", "Records", "Running"
SIZES = ", ".join(f"{name} {image / 1e6:.2g} M" for name, (image, _) in PARAMETER_TABLE.items())
SIZES_2D = ", ".join(f"{name} {vector / 1e6:.2g} M" for name, (_, vector) in PARAMETER_TABLE.items())
POSITIVE = click.IntRange(1)
NOT_NEGATIVE = click.IntRange(0)


@click.command(
    cls=Command,
    short_help="Train on your data.",
    epilog=examples(
        "scoresde train digits --out runs/digits",
        "scoresde train photos --crop 32 --channels 1 --out runs/photos --steps 20000",
        "scoresde train pictures/ --size 64 --flip --preset base --out runs/pictures",
        "scoresde train moons --process ve --predict edm --weight edm --out runs/moons",
        "scoresde train digits --dry-run > config.toml",
        "scoresde train --config config.toml --learning-rate 3e-4 --out runs/other",
        "scoresde train --out runs/digits --steps 10000   # go on with a run, for longer",
    ),
)
@click.argument("data", required=False)
@option("--out", type=click.Path(file_okay=False, path_type=Path), section=RUNNING, metavar="RUN",
        help="Folder of the run. One that is there already goes on where it stopped.")  # fmt: skip
@option("--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), section=RUNNING,
        help="A config.toml to start from; options given here win.")  # fmt: skip
@option("--dry-run", is_flag=True, section=RUNNING,
        help="Print the resolved configuration, memory and time, and write nothing.")  # fmt: skip
@option("--n", type=POSITIVE, section=DATA, help="Items to take, or to draw from a toy or mixture.")
@option("--size", type=POSITIVE, section=DATA, help="Side in pixels that pictures are resized to.")
@option("--crop", type=POSITIVE, section=DATA, help="Side in pixels of random crops, before --size.")
@option("--channels", type=click.Choice(["1", "3"]), section=DATA, help="Grey or colour.",
        callback=lambda ctx, param, value: value and int(value))  # fmt: skip
@option("--downscale", type=POSITIVE, section=DATA, help="Of photos: shrink by this factor first.")
@option("--held-out", type=click.FloatRange(0, 1, max_open=True), default=0.05, section=DATA,
        help="Share of the items kept for validation.")  # fmt: skip
@option("--flip", is_flag=True, section=DATA, help="Mirror pictures left to right at random.")
@option("--preset", type=Choice(names.PRESETS), default="small", section=NETWORK,
        help=f"Size in parameters: {SIZES} for 28x28 pictures; {SIZES_2D} for points of the plane.")  # fmt: skip
@option("--predict", type=Choice(names.PREDICTIONS), default="eps", section=NETWORK,
        help="What the network predicts: noise, data, velocity, score, or Karras et al.'s F.")  # fmt: skip
@process_options("Forward process")
@option("--steps", type=POSITIVE, default=5000, section=TRAINING,
        help="Steps in all; the learning rate falls over them along a cosine.")  # fmt: skip
@option("--batch-size", type=POSITIVE, default=128, section=TRAINING, help="Samples in a step.")
@option("--learning-rate", type=click.FloatRange(0, min_open=True), default=1e-3, section=TRAINING,
        help="At its peak, of AdamW.")  # fmt: skip
@option("--warmup", type=NOT_NEGATIVE, default=100, section=TRAINING, help="Steps until the peak.")
@option("--final-rate", type=click.FloatRange(0, 1), default=0.05, section=TRAINING,
        help="Learning rate at the end, as a share of the peak.")  # fmt: skip
@option("--clip", type=click.FloatRange(0, min_open=True), default=1.0, section=TRAINING,
        help="Largest norm of the gradient; inf for none.")  # fmt: skip
@option("--weight", type=Choice(names.WEIGHTS), default="simple", section=TRAINING,
        help="Weight of the loss at each noise level.")  # fmt: skip
@option("--times", type=Choice(names.TIMES), default="continuous", section=TRAINING,
        help="Train at any t in (0, 1), or at those of a chain (Ho et al. 2020).")  # fmt: skip
@option("--chain-steps", type=POSITIVE, default=1000, section=TRAINING, help="Steps of that chain.")
@option("--low-discrepancy/--independent", default=True, section=TRAINING,
        help="Spread t evenly within a batch, or draw each by itself.")  # fmt: skip
@option("--ema", type=click.FloatRange(0, 1, max_open=True), multiple=True, default=(0.999,), section=TRAINING,
        help="Decay of a moving average of the weights; repeat for several.")  # fmt: skip
@option("--micro-batches", type=POSITIVE, default=1, section=TRAINING,
        help="Parts that a batch is computed in, to save memory.")  # fmt: skip
@option("--precision", type=Choice(names.PRECISIONS), default="float32", section=TRAINING,
        help="Of the network's arithmetic.")  # fmt: skip
@option("--compile", is_flag=True, section=TRAINING, help="Use torch.compile: minutes first, faster then.")
@option("--seed", type=SEEDS, default=0, section=TRAINING, metavar="INTEGER",
        help="Of the data's split, the start, and all noise; from 0.")  # fmt: skip
@option("--log-every", type=POSITIVE, default=50, section=RECORDS, help="Steps between lines of metrics.jsonl.")
@option("--checkpoint-every", type=NOT_NEGATIVE, default=1000, section=RECORDS,
        help="Steps between checkpoints, of which three are kept; 0: only at the end.")  # fmt: skip
@option("--sample-every", type=NOT_NEGATIVE, default=1000, section=RECORDS,
        help="Steps between previews in RUN/samples; 0: none.")  # fmt: skip
@option("--validate-every", type=NOT_NEGATIVE, default=500, section=RECORDS,
        help="Steps between validations on held-out data; 0: none.")  # fmt: skip
@device_options
@click.pass_context
def train(
    ctx: click.Context,
    data: str | None,
    out: Path | None,
    config: Path | None,
    dry_run: bool,
    log_every: int,
    checkpoint_every: int,
    sample_every: int,
    validate_every: int,
    device: str,
    threads: int | None,
    **recipe_options: Any,
) -> None:
    """Train a score model on DATA, and save all that is needed to sample from it in the folder RUN.

    DATA is digits, photos, a toy (moons, checkerboard, swissroll, rings), a mixture (gmm:grid25, ...), a folder or zip
    of pictures, a .npy or .npz array, or an IDX file (.gz too).

    Ctrl-C stops after a step and saves; the same command goes on, bit for bit as if it had not stopped.
    """
    if out is None and not dry_run:
        raise click.UsageError("Missing option '--out': the folder of the run.")
    options = given(ctx, recipe_options)
    rhythm = (log_every, checkpoint_every, sample_every, validate_every)
    run(data, options, config, out, dry_run, rhythm, device, threads, same_command(ctx))


def run(
    source: str | None,
    options: dict[str, Any],
    config: Path | None,
    out: Path | None,
    dry_run: bool,
    rhythm: tuple[int, int, int, int],
    device_name: str,
    threads: int | None,
    again: str,
) -> None:
    """Train, or say what training would be."""
    from scoresde_cli import devices, starting
    from scoresde_cli.estimate import estimate
    from scoresde_cli.session import Rhythm

    device = devices.choose(device_name, threads)
    if out is None or dry_run:
        plan = starting.plan(source, options, config, out)
        click.echo(estimate(plan.recipe, plan.material, device), nl=False)
        return
    with starting.begun(source, options, config, out, device) as (plan, state, folder):
        starting.train(plan, state, folder, Rhythm(*rhythm), again)
