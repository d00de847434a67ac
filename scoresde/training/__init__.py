"""Training by denoising score matching: the loss, the averages, the loop. It is handed its objects and builds none."""

from scoresde.training.batches import Batches
from scoresde.training.ema import EMA
from scoresde.training.loop import Record, Settings, TrainingState, Validation, train, validation_loss
from scoresde.training.loss import WEIGHTS, ChainTimes, ContinuousTimes, Times, Weight, denoising_loss

__all__ = [
    "EMA",
    "WEIGHTS",
    "Batches",
    "ChainTimes",
    "ContinuousTimes",
    "Record",
    "Settings",
    "Times",
    "TrainingState",
    "Validation",
    "Weight",
    "denoising_loss",
    "train",
    "validation_loss",
]
