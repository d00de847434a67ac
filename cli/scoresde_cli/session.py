"""A training session: the loop and what happens beside it: records, previews, validation, checkpoints, stopping."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from scoresde import recipe as recipes
from scoresde.errors import NumericalError
from scoresde.recipe import Recipe
from scoresde.runs import Run
from scoresde.training import Record, TrainingState, train, validation_loss
from scoresde_cli import previews, stopping
from scoresde_cli.material import Material
from scoresde_cli.progress import EVERY_S, Display, display


@dataclass(frozen=True)
class Rhythm:
    """After how many steps things happen; 0 for never, but for the last step."""

    log: int = 50
    checkpoint: int = 1000
    sample: int = 1000
    validate: int = 500


@dataclass
class Tally:
    """What happened since the last line of metrics.jsonl."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0

    def add(self, record: Record, seconds: float) -> None:
        self.steps += 1
        self.seconds += seconds
        if not record.skipped:
            self.losses.append(record.loss)
            self.norms.append(record.gradient_norm)


class Session:
    """One sitting of a run that is locked, with its state in memory.

    Args:
        again: the command line that goes on with it.
    """

    def __init__(
        self, run: Run, recipe: Recipe, material: Material, state: TrainingState, rhythm: Rhythm, again: str
    ) -> None:
        self.run, self.recipe, self.material, self.state = run, recipe, material, state
        self.rhythm, self.again = rhythm, again
        self.settings = recipes.settings(recipe)
        self._saved_step = -1
        self._tally = Tally()
        self._speed = 0.0
        self._loss = math.nan
        self._told_of_skipping = -math.inf

    def train(self) -> None:
        """Train to the last step of the recipe.

        Raises:
            Interrupted: by a signal, once a checkpoint is written.
            NumericalError: too many steps in a row were not finite; the last checkpoint stays as it was.
            OSError: something could not be written.
        """
        with (
            display("step", self.settings.steps, self.state.step, self.run.log) as show,
            stopping.deferred() as stop,
        ):
            try:
                self._loop(show, stop)
            except stopping.Interrupted as interrupted:
                if stop.signum is not None and not str(interrupted):
                    raise self._stopped(interrupted.signum) from None
                raise
            except NumericalError as error:
                raise NumericalError(f"{error}. {self._kept()}") from error
            if self._saved_step != self.state.step:
                self._save(show)

    def _loop(self, show: Display, stop: stopping.Stop) -> None:
        last = self.settings.steps
        clock = time.perf_counter()
        for record in train(self.state, self.material.batches(self.recipe), self.settings):
            now = time.perf_counter()
            self._tally.add(record, now - clock)
            step = record.step
            if record.skipped:
                self._tell_skipped(show, record)
            if step % self.rhythm.log == 0 or step == last:
                self._record(record)
            show.update(step, self._note(record))
            stop.check()
            if _due(step, self.rhythm.validate, last) and len(self.material.held_out):
                self._validate(show)
            if _due(step, self.rhythm.sample, last):
                self._preview(show, stop)
            # not in the middle of a streak of skipped steps, which may end in failure
            if _due(step, self.rhythm.checkpoint, last) and not record.skipped:
                self._save(show)
            stop.check()
            clock = time.perf_counter()

    def _note(self, record: Record) -> str:
        if not record.skipped:
            # a running mean over some ten steps
            self._loss = record.loss if math.isnan(self._loss) else 0.9 * self._loss + 0.1 * record.loss
        speed = self._speed or self.recipe.training.batch_size * self._tally.steps / max(self._tally.seconds, 1e-9)
        return f"loss {self._loss:.4f}  {speed:,.0f} samples/s"

    def _record(self, record: Record) -> None:
        tally, self._tally = self._tally, Tally()
        self._speed = self.recipe.training.batch_size * tally.steps / max(tally.seconds, 1e-9)
        self.run.record(
            step=record.step,
            loss=_mean(tally.losses),
            gradient_norm=_mean(tally.norms),
            learning_rate=record.learning_rate,
            samples_per_second=round(self._speed, 1),
            skipped=self.state.skipped,
        )

    def _tell_skipped(self, show: Display, record: Record) -> None:
        now = time.monotonic()
        if now - self._told_of_skipping > EVERY_S:
            self._told_of_skipping = now
            show.say(
                f"step {record.step}: the loss or its gradient was not finite; the step was skipped "
                f"({self.state.skipped} so far)"
            )

    def _validate(self, show: Display) -> None:
        held_out = self.material.held_out
        result = validation_loss(
            self.state,
            self.material.fetch(held_out),
            len(held_out),
            seed=self.recipe.training.seed,
            times=self.settings.times,
        )
        finite = math.isfinite(result.loss)
        self.run.record(
            step=result.step,
            validation_loss=result.loss if finite else None,
            standard_error=result.standard_error if finite else None,
        )
        show.say(f"step {result.step}: loss on held-out data {result.loss:.4f} +- {result.standard_error:.4f}")

    def _preview(self, show: Display, stop: stopping.Stop) -> None:
        try:
            path = previews.preview(self.state, self.material.space, self.material.train, self.run.samples, stop.check)
            show.say(f"step {self.state.step}: samples in {path}")
        except NumericalError as error:  # a bad moment of the network does not end its training
            show.say(f"step {self.state.step}: no samples: {error}")

    def _save(self, show: Display) -> None:
        path = self.run.save(self.state, self.recipe, self.material.space)
        self._saved_step = self.state.step
        show.say(f"step {self.state.step}: saved {path}")

    def _stopped(self, signum: int) -> stopping.Interrupted:
        path = self.run.save(self.state, self.recipe, self.material.space)
        done = f"Stopped at step {self.state.step} of {self.settings.steps}; saved {path}"
        self.run.log(done)
        return stopping.Interrupted(signum, f"{done}\nTo go on: {self.again}")

    def _kept(self) -> str:
        if self.run.exists():
            return f"The last good checkpoint is kept in {self.run.checkpoints}"
        return "There was no checkpoint yet"


def _due(step: int, every: int, last: int) -> bool:
    return every > 0 and (step % every == 0 or step == last)


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
