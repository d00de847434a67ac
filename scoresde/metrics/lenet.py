"""Features of handwritten digits: the 84 numbers before the last layer of a LeNet-5 (LeCun et al. 1998).

The weights come as a file of tensors under names such as `convnet.c1.weight`. The architecture is
convolution, tanh and max-pooling twice, a third convolution and a linear layer with tanh each, then the
classifier; with bilinear enlargement of 28x28 digits to the 32x32 that it was trained on, it reads 98.79 %
of the MNIST test digits rightly. (With ReLU, average pooling or a margin of zeros it reads fewer.)
"""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

SHAPES = {
    "convnet.c1": (6, 1, 5, 5),
    "convnet.c3": (16, 6, 5, 5),
    "convnet.c5": (120, 16, 5, 5),
    "fc.f6": (84, 120),
    "fc.f7": (10, 84),
}
IMAGES_AT_ONCE = 1000

Weights = dict[str, Tensor]


def load_features(path: str | Path) -> Callable[[Tensor], Tensor]:
    """The map from digits (N, 1, H, W) in [0, 1], H = W = 28 or 32, to features (N, 84) in [-1, 1].

    Raises OSError for a file that cannot be read, and ValueError for one that does not hold this network.
    The map raises ValueError for pictures of another shape or range.
    """
    weights = load_weights(path)

    def features(images: Tensor) -> Tensor:
        _check_images(images)
        with torch.no_grad():
            return torch.cat([_features(weights, part.float()) for part in images.split(IMAGES_AT_ONCE)])

    return features


def load_weights(path: str | Path) -> Weights:
    """The ten tensors of the file, float32, checked by name and shape."""
    try:
        # The weights are published in this format only; `weights_only` admits tensors and runs no code.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"{path} is not a file of tensors that torch can load safely: {error}") from error
    expected = {f"{name}.weight": shape for name, shape in SHAPES.items()}
    expected |= {f"{name}.bias": shape[:1] for name, shape in SHAPES.items()}
    if not isinstance(state, dict) or {k: tuple(v.shape) for k, v in state.items()} != expected:
        raise ValueError(f"{path} does not hold a LeNet-5: expected the tensors {', '.join(expected)}")
    return {name: tensor.float() for name, tensor in state.items()}


def classify(weights: Weights, features: Tensor) -> Tensor:
    """Logits (N, 10) from features (N, 84): the layer that was trained on top, to check the features with."""
    return F.linear(features, weights["fc.f7.weight"], weights["fc.f7.bias"])


def _features(weights: Weights, x: Tensor) -> Tensor:
    def parameters(name: str) -> tuple[Tensor, Tensor]:
        return weights[f"{name}.weight"].to(x.device), weights[f"{name}.bias"].to(x.device)

    if x.shape[-1] != 32:
        x = F.interpolate(x, size=(32, 32), mode="bilinear", align_corners=False)
    x = F.max_pool2d(torch.tanh(F.conv2d(x, *parameters("convnet.c1"))), 2)
    x = F.max_pool2d(torch.tanh(F.conv2d(x, *parameters("convnet.c3"))), 2)
    x = torch.tanh(F.conv2d(x, *parameters("convnet.c5"))).flatten(1)
    return torch.tanh(F.linear(x, *parameters("fc.f6")))


def _check_images(images: Tensor) -> None:
    if images.ndim != 4 or len(images) == 0 or images.shape[1:] not in ((1, 28, 28), (1, 32, 32)):
        raise ValueError(f"images must be (N, 1, 28, 28) or (N, 1, 32, 32), got {tuple(images.shape)}")
    low, high = images.min().item(), images.max().item()
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise ValueError(f"images must lie in [0, 1], got [{low:.3g}, {high:.3g}]; rescale and clip them")
