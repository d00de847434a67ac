"""Symmetries of pictures, applied where the caller says: the randomness is the caller's."""

import torch


def flip_horizontal(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mirror left and right those of `x` (B, *, W) where `mask` (B,) bool is true; a new tensor.

    Raises
    ------
    ValueError
        if `mask` is not boolean with one entry for each item.
    """
    if mask.dtype != torch.bool or mask.shape != x.shape[:1]:
        raise ValueError(f"mask must be bool of shape ({len(x)},), got {mask.dtype} of {tuple(mask.shape)}")
    flipped = x.clone()
    flipped[mask] = x[mask].flip(-1)
    return flipped


def quarter_turns(x: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Turn item i of `x` (B, *, H, H) by k[i] quarter turns, anticlockwise; `k` is (B,) whole; a new tensor.

    Raises
    ------
    ValueError
        if pictures are not square, or `k` is not one whole number for each item.
    """
    if x.ndim < 3 or x.shape[-1] != x.shape[-2]:
        raise ValueError(f"quarter turns need square pictures (B, *, H, H), got {tuple(x.shape)}")
    if k.is_floating_point() or k.dtype == torch.bool or k.shape != x.shape[:1]:
        raise ValueError(f"k must be whole numbers of shape ({len(x)},), got {k.dtype} of {tuple(k.shape)}")
    turned = x.clone()
    for turns in (1, 2, 3):
        chosen = k % 4 == turns
        turned[chosen] = torch.rot90(x[chosen], turns, (-2, -1))
    return turned
