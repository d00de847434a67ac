"""The one error of this package: what was given as data cannot be used, and why."""


class DataError(ValueError):
    """Bad input data: a missing, broken, mis-shaped or non-finite file, or a name that is no data set.

    The message names the file, the offending value and what to do about it.
    """


def check_memory(n_bytes: int, limit: int, name: str, remedy: str) -> None:
    """Refuse, before anything large is read, what would take more than `limit` bytes.

    Raises
    ------
    DataError
        if `n_bytes` exceeds `limit`; the message ends with `remedy`.
    """
    if n_bytes > limit:
        raise DataError(
            f"{name}: would take {n_bytes / 2**30:.3g} GiB of memory, "
            f"more than the limit of {limit / 2**30:.3g} GiB; {remedy}"
        )
