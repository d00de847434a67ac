"""From `--task` and its options, or `--operator`, to the operator for a picture of some size."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from torch import Tensor

from scoresde.data import DataError
from scoresde.inverse import problems
from scoresde.linalg import Operator, gaussian_kernel, motion_kernel
from scoresde.recipe import Space
from scoresde_cli import names, restoration_operator
from scoresde_cli.names import TASKS
from scoresde_cli.restoration_options import split_index

Shape = tuple[int, ...]
COLOURS, LONGEST = 3, 40


@dataclass(frozen=True)
class Task:
    """What was done to x.

    Args:
        name: of the task or operator; options: in full, as plain values.
        operator: for x of a shape, in the user's units.
        x_shape: of x, for the shape of a file that is the measurement and that of a sample that the prior knows.
        digests: of the files that it was made from; seen: of what it makes of one x of a shape, for an operator whose
            numbers may come from anywhere.
        mask: for x of a shape, (H, W): what of it is kept; None for tasks that keep no pixels as they were.
    """

    name: str
    options: Mapping[str, Any]
    operator: Callable[[Shape], Operator]
    x_shape: Callable[[Shape, Shape], Shape]
    digests: Mapping[str, str]
    mask: Callable[[Shape], Tensor] | None = None
    seen: Callable[[Shape], str] | None = None

    def deciding(self, shape: Shape) -> dict[str, Any]:
        """As plain values, for settings.json, with x of that shape."""
        digests = {f"{key} sha256": value for key, value in self.digests.items()}
        tried = {} if self.seen is None else {"A(x) sha256": self.seen(shape)}
        return {"task": self.name, **self.options, **digests, **tried}

    def label(self) -> str:
        """For folder names: the task, and the options that are not at their defaults."""
        changed = {word: value for word, value in self.options.items() if value != names.TASK_DEFAULTS.get(word)}
        named = {word: Path(value).stem if word in self.digests else _slug(value) for word, value in changed.items()}
        words = [f"{word.replace('_', '-')}{value}" for word, value in named.items()]
        return "-".join([self.name.replace(":", "-"), *words])

    def measured(self, values: Tensor, operator: Operator, shape: Shape, path: Path) -> Tensor:
        """y, from the values of a file: as they are, or the part of a picture with holes that a mask keeps.

        Raises:
            DataError: they have not the shape of a measurement.
        """
        if self.mask is not None and tuple(values.shape) == shape:
            return operator(values[None])[0]
        expected = operator.out_shape(shape)
        if tuple(values.shape) != expected:
            raise DataError(
                f"{path} has the shape {tuple(values.shape)}; {self.name}, with {operator}, measures {expected} of x "
                f"of shape {shape}"
            )
        return values

    def check_space(self, space: Space) -> None:
        """Refuse a prior of arrays for a task on pictures, and one of grey pictures for colours.

        Raises:
            UsageError: it is.
        """
        if self.name in TASKS and self.name != "denoise" and space.kind != "image":
            raise click.UsageError(
                f"--task {self.name} is for pictures, and this prior is of arrays of shape {space.shape}; take --task "
                "denoise, or --operator for a measurement of your own"
            )
        if self.name == "colourise" and space.shape[0] != COLOURS:
            raise click.UsageError(
                f"--task {self.name} needs a prior of colour pictures; this one is of {space.shape[0]} channel"
            )


def _slug(value: Any) -> str:
    """For a folder's name: a text is whatever the user likes."""
    return re.sub(r"[^\w.]+", "-", str(value)).strip("-.")[:LONGEST]


def make(task: str | None, operator: str | None, options: Mapping[str, Any], seed: int) -> Task:
    """The task of that name with its options, defaults filled in.

    Raises:
        UsageError: an operator that cannot be had; ValueError, DataError: values or files that cannot be used.
    """
    if task is None:
        return _own(str(operator))
    full = {word: options.get(word, names.TASK_DEFAULTS.get(word)) for word in TASKS[task].options}
    return MAKERS[task](task, full, seed)


# --- each task -----------------------------------------------------------------------------------------


def _same(measured: Shape, known: Shape) -> Shape:
    """x is as large as what was measured."""
    return measured


def _known(measured: Shape, known: Shape) -> Shape:
    """What was measured does not tell how large x is: as large as the prior's samples."""
    return known


def _constant(operator: Callable[..., Operator], *words: str) -> Callable[[str, Mapping[str, Any], int], Task]:
    """A task that is the same for every size."""

    def build(name: str, options: Mapping[str, Any], seed: int) -> Task:
        made = operator(*(options[word] for word in words))
        return Task(name, options, lambda shape: made, _same, {})

    return build


def _inpaint(name: str, options: Mapping[str, Any], seed: int) -> Task:
    which = options["mask"]
    own = dict(options)
    if which in names.MASKS_OF_A_SHARE and options["keep"] is None:
        own["keep"] = names.KEEP[which]
    if which not in names.MASKS_OF_A_SHARE:
        del own["keep"]
    if which != "text":
        del own["text"]

    def mask(shape: Shape) -> Tensor:
        size = (shape[-2], shape[-1])
        if which == "box":
            return problems.box_mask(*size, keep=own["keep"])
        if which == "random":
            return problems.random_mask(*size, own["keep"], seed)
        if which == "text":
            return problems.text_mask(*size, own["text"])
        return problems.read_mask(which, *size)

    def x_shape(measured: Shape, known: Shape) -> Shape:
        return measured if len(measured) == 3 else known

    files = {} if which in names.MASKS else {"mask": _digest(which)}
    return Task(name, own, lambda shape: problems.inpaint(mask(shape)), x_shape, files, mask)


def _deblur(name: str, options: Mapping[str, Any], seed: int) -> Task:
    own = dict(options)
    if options["kernel"] in names.KERNELS:
        kernel, files = gaussian_kernel(options["kernel_std"]), dict[str, str]()
    else:
        kernel, files = problems.read_kernel(options["kernel"]), {"kernel": _digest(options["kernel"])}
        del own["kernel_std"]
    remedy = "crop what is 0 off it" if files else "take a smaller --kernel-std"
    return _blur(name, own, kernel, files, remedy)


def _motion_deblur(name: str, options: Mapping[str, Any], seed: int) -> Task:
    kernel = motion_kernel(options["length"], options["angle"])
    return _blur(name, options, kernel, {}, "take a smaller --length")


def _blur(name: str, options: Mapping[str, Any], kernel: Tensor, files: Mapping[str, str], remedy: str) -> Task:
    operator = problems.deblur(kernel, options["boundary"])

    def for_shape(shape: Shape) -> Operator:
        (kh, kw), (height, width) = kernel.shape, shape[-2:]
        if kh > height or kw > width:
            raise click.UsageError(
                f"the kernel of {name}, {kh} x {kw}, is larger than the picture, {height} x {width}; {remedy}"
            )
        return operator

    return Task(name, options, for_shape, _same, files)


def _superres(name: str, options: Mapping[str, Any], seed: int) -> Task:
    scale = options["scale"]
    operator = problems.superresolve(scale, options["shrink"])

    def x_shape(measured: Shape, known: Shape) -> Shape:
        return (*measured[:-2], *(scale * side for side in measured[-2:]))

    return Task(name, options, lambda shape: operator, x_shape, {})


def _colourise(name: str, options: Mapping[str, Any], seed: int) -> Task:
    operator = problems.colourise()
    return Task(name, options, lambda shape: operator, lambda measured, known: (3, *measured[1:]), {})


MAKERS: dict[str, Callable[[str, Mapping[str, Any], int], Task]] = {
    "denoise": _constant(problems.denoise),
    "inpaint": _inpaint,
    "deblur": _deblur,
    "motion-deblur": _motion_deblur,
    "superres": _superres,
    "colourise": _colourise,
    "dejpeg": _constant(problems.dejpeg, "quality"),
    "dequantise": _constant(problems.dequantise, "levels"),
    "hdr": _constant(problems.hdr, "gain"),
}


def _own(name: str) -> Task:
    own = restoration_operator.load(name)

    files = {} if own.digest is None else {"operator": own.digest}
    return Task(name, {}, own.checked, _known, files, seen=own.seen)


def _digest(file: str) -> str:
    return hashlib.sha256(Path(split_index(file)[0]).read_bytes()).hexdigest()
