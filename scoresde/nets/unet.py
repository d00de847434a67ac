"""A small U-Net: (B, C, H, W) pictures and one level per sample in, pictures of the same shape out.

The frame is that of Ho et al. 2020 (residual blocks with GroupNorm and SiLU, attention on the coarsest
grid, scale and shift by the level as in Dhariwal & Nichol 2021) with choices made for a processor
without an accelerator: skip connections add instead of concatenating (Zhang et al. 2021, DRUNet), and
up-sampling convolves before it enlarges. Every sum of two branches is divided by sqrt(2) to keep
the variance (Song et al. 2021, appendix H), and each residual branch ends in a convolution that starts at zero.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from scoresde.nets.embedding import FiLM, LevelEmbedding, check_condition, zero


def conv3x3(c_in: int, c_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, kernel_size=3, stride=stride, padding=1)


class GroupNorm(nn.GroupNorm):
    """torch's, able to be differentiated in forward mode in channels-last memory too."""

    def forward(self, x: Tensor) -> Tensor:
        # The forward-mode rule views its input in a way that this layout refuses. A second derivative hides
        # the tangent from `unpack_dual`, so the question is whether any forward-mode level is open.
        if forward_ad._current_level >= 0:
            x = x.contiguous()
        return super().forward(x)


def group_norm(channels: int) -> GroupNorm:
    """At least four channels a group where that divides: a group of one would erase a 1x1 picture."""
    return GroupNorm(math.gcd(channels, min(32, max(1, channels // 4))), channels)


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column until both sides divide; any size, and deterministic on every device."""
    for dim in (-2, -1):
        missing = -x.shape[dim] % multiple
        if missing:
            edge = x.narrow(dim, x.shape[dim] - 1, 1)
            x = torch.cat([x, *[edge] * missing], dim)
    return x


class ResidualBlock(nn.Module):
    def __init__(self, channels: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = group_norm(channels), group_norm(channels)
        self.conv1, self.conv2 = conv3x3(channels, channels), zero(conv3x3(channels, channels))
        self.film = FiLM(embedding, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = F.silu(self.film(self.norm2(h), embedding))
        h = self.conv2(self.dropout(h))
        return (x + h) * math.sqrt(0.5)


class Attention(nn.Module):
    """Every pixel looks at every other. Cost and memory grow as (H W)^2: meant for coarse grids."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = group_norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, kernel_size=1)
        self.out = zero(nn.Conv2d(channels, channels, kernel_size=1))

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(x))
        q, k, v = rearrange(qkv, "b (three n d) h w -> three b n (h w) d", three=3, n=self.heads)
        # The fused kernels have neither forward-mode nor second derivatives, and exact divergences and
        # second-order guidance need both; on grids this coarse they gain nothing.
        with sdpa_kernel(SDPBackend.MATH):
            mixed = F.scaled_dot_product_attention(q, k, v)
        h = rearrange(mixed, "b n (h w) d -> b (n d) h w", h=x.shape[-2])
        return (x + self.out(h)) * math.sqrt(0.5)


class Stage(nn.Module):
    """The blocks of one level on one side, each followed by attention where the level has it."""

    def __init__(self, channels: int, embedding: int, blocks: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(channels, embedding, dropout) for _ in range(blocks))
        self.attention = nn.ModuleList(Attention(channels, heads) if heads else nn.Identity() for _ in range(blocks))

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        for block, attention in zip(self.blocks, self.attention, strict=True):
            h = attention(block(h, embedding))
        return h


class UNet(nn.Module):
    """Pictures of `channels` channels and any height and width, a level per sample, and optionally a class.

    Level l of the network works at 1 / 2^l of the resolution with `width * multipliers[l]` channels and
    `blocks` residual blocks on the way down and as many on the way up. `attention` lists the levels whose
    blocks are followed by attention; negative numbers count from the coarsest. Sides that are not multiples
    of 2^(levels - 1) are padded by their edge and cropped again. The output starts at exactly zero.

    With `classes`, forward takes `label`, (B,) integers in 0..classes; the last one, `classes` itself, and
    label=None both mean "no class" (Ho & Salimans 2022).

    Raises ValueError for sizes that do not fit together.
    """

    def __init__(
        self,
        channels: int,
        width: int = 64,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] = (-1,),
        heads: int = 4,
        dropout: float = 0.0,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        _check_sizes(channels, width, multipliers, blocks, attention, heads, dropout, classes)
        widths = [width * m for m in multipliers]
        levels = len(widths)
        attended = {level % levels for level in attention}
        embedding = 2 * width

        def stage(level: int) -> Stage:
            return Stage(widths[level], embedding, blocks, heads if level in attended else 0, dropout)

        self.channels, self.classes = channels, classes
        self.multiple = 2 ** (levels - 1)
        self.embedding = LevelEmbedding(embedding)
        self.label = None if classes is None else nn.Embedding(classes + 1, embedding)
        self.first = conv3x3(channels, widths[0])
        self.down = nn.ModuleList(stage(level) for level in range(levels))
        self.up = nn.ModuleList(stage(level) for level in range(levels))
        self.shrink = nn.ModuleList(conv3x3(a, b, stride=2) for a, b in pairwise(widths))
        self.enlarge = nn.ModuleList(conv3x3(b, a) for a, b in pairwise(widths))
        self.last = nn.Sequential(group_norm(widths[0]), nn.SiLU(), zero(conv3x3(widths[0], channels)))

    def forward(self, x: Tensor, condition: Tensor, label: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), condition (B,) or () log-SNR, label (B,) integers or None; returns (B, C, H, W)."""
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ValueError(f"x must be (B, {self.channels}, H, W), got {tuple(x.shape)}")
        embedding = self._embed(check_condition(x, condition), label)
        h = self.first(pad_to_multiple(x, self.multiple))

        skips = []
        for level, stage in enumerate(self.down):
            h = stage(self.shrink[level - 1](h) if level else h, embedding)
            skips.append(h)

        for level in reversed(range(len(self.up))):
            h = self.up[level](h, embedding)
            if level:
                h = F.interpolate(self.enlarge[level - 1](h), scale_factor=2.0, mode="nearest")
                h = (h + skips[level - 1]) * math.sqrt(0.5)
        return cast(Tensor, self.last(h))[..., : x.shape[-2], : x.shape[-1]]

    def _embed(self, condition: Tensor, label: Tensor | None) -> Tensor:
        embedding = self.embedding(condition)
        if self.label is None:
            if label is not None:
                raise ValueError("this network was built without classes and takes no label")
            return embedding
        if label is None:
            label = torch.full(condition.shape, self.label.num_embeddings - 1, device=condition.device)
        return embedding + self.label(label)


def _check_sizes(
    channels: int,
    width: int,
    multipliers: Sequence[int],
    blocks: int,
    attention: Sequence[int],
    heads: int,
    dropout: float,
    classes: int | None,
) -> None:
    levels = len(multipliers)
    for name, value in (("channels", channels), ("width", width), ("blocks", blocks), ("heads", heads)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if levels == 0 or min(multipliers) < 1:
        raise ValueError(f"multipliers must be one or more positive integers, got {tuple(multipliers)}")
    for level in attention:
        if not -levels <= level < levels:
            raise ValueError(f"attention names level {level}; this network has levels 0..{levels - 1}")
        channels_there = width * multipliers[level]
        if channels_there % heads:
            where = f"the {channels_there} channels of level {level % levels}"
            raise ValueError(f"heads must divide {where}, got {heads}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), got {dropout}")
    if classes is not None and classes < 1:
        raise ValueError(f"classes must be at least 1, or None, got {classes}")
