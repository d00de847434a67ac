"""Errors that are not a wrong argument (`ValueError`): each stands for one exit code of the command line."""


class NumericalError(ArithmeticError):
    """A value that is not finite, or a tolerance that cannot be met; says which sample, step and t."""


class CheckpointError(ValueError):
    """A run or checkpoint that is missing, damaged or not ours; says which file and why."""


class BusyError(OSError):
    """Somebody else is writing the same run."""
