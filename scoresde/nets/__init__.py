"""Networks: a tensor and one level per sample in, a tensor of the same shape out. That is all they know.

torch is imported when a network is first asked for: a help text shows `PARAMETER_TABLE` without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from scoresde.nets._sizes import PARAMETER_TABLE

if TYPE_CHECKING:
    from scoresde.nets.mlp import MLP
    from scoresde.nets.presets import MLP_PRESETS, UNET_PRESETS, build, parameter_count
    from scoresde.nets.unet import UNet

__all__ = ["MLP", "MLP_PRESETS", "PARAMETER_TABLE", "UNET_PRESETS", "UNet", "build", "parameter_count"]

_HOMES = {"MLP": "mlp", "UNet": "unet"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'presets')}"), name)
