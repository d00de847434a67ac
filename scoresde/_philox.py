"""Philox4x32-10: random words that are a function of their address alone, so that there is no state to keep.

Philox (Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3") scrambles a counter
of four 32-bit words under a key of two. Each of its ten rounds is

    c0, c1, c2, c3  <-  hi(M1 c2) ^ c1 ^ k0,  lo(M1 c2),  hi(M0 c0) ^ c3 ^ k1,  lo(M0 c0)

where hi and lo are the halves of a 64-bit product, and (k0, k1) grows by (W0, W1) from one round to the next.
Here the key is a seed (k0 its low word) and the counter is (block, step, sample id, stream).

Block b of a sample makes these of its elements, counted in row-major order:

    float32   uniform 4b + w            from word w
              normals 4b + 2p, + 1      from word 2p (radius) and word 2p + 1 (angle)
    float64   uniform 2b + p            from words 2p (high) and 2p + 1 (low)
              normals 2b, 2b + 1        from words 0 and 1 (radius) and words 2 and 3 (angle)

so that a short sample is a prefix of a longer one. A pair of normals is r (cos a, sin a) with r^2 = -2 log u
and a uniform on the circle (Box and Muller 1958).
"""

import math
import operator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

M0, M1 = 0xD2511F53, 0xCD9E8D57
W0, W1 = 0x9E3779B9, 0xBB67AE85
MASK, MASK52 = (1 << 32) - 1, (1 << 52) - 1
CHUNK = 16384  # blocks at a time on the CPU: their work space, 1.2 MB, about fills a level-2 cache
LANE = 72  # bytes of work space for a block

Counter = tuple[Tensor, Tensor, Tensor, Tensor]
Words = NDArray[np.uint64]
Floats = NDArray[np.floating]


class Address(NamedTuple):
    """Where to find numbers: `blocks` blocks for each of `ids` (B,) int64; one step, or one each (B,)."""

    seed: int
    ids: Tensor
    blocks: int
    step: int | Tensor
    stream: int


def philox4x32(counter: Counter, key: tuple[int, int]) -> Counter:
    """Philox4x32-10 of a counter of four int64 tensors, values in [0, 2^32), under a key of two such words.

    The tensors are on any one device, of any shapes that broadcast together. Returns four like them.
    """
    c0, c1, c2, c3 = counter
    for k0, k1 in _round_keys(key):
        p0, p1 = c0 * M0, c2 * M1  # int64 wraps modulo 2^64: the bits of the unsigned product
        c0, c1, c2, c3 = (p1 >> 32 & MASK) ^ c1 ^ k0, p1 & MASK, (p0 >> 32 & MASK) ^ c3 ^ k1, p0 & MASK
    return c0, c1, c2, c3


def philox_word(seed: int, *words: int) -> int:
    """A 64-bit integer (word 0 high, word 1 low) for one counter, without tensors: good for deriving seeds.

    `words` are at most four integers in [0, 2^32); those left out are 0. Raises ValueError out of range.
    """
    if len(words) > 4:
        raise ValueError(f"a counter has at most 4 words, got {len(words)}: {words}")
    c0, c1, c2, c3 = (*(check_range("counter word", word, 32) for word in words), 0, 0, 0, 0)[:4]
    for k0, k1 in _round_keys(_key(seed)):
        p0, p1 = c0 * M0, c2 * M1
        c0, c1, c2, c3 = p1 >> 32 ^ c1 ^ k0, p1 & MASK, p0 >> 32 ^ c3 ^ k1, p0 & MASK
    return c0 << 32 | c1


def uniform_blocks(at: Address, dtype: torch.dtype) -> Tensor:
    """Uniform numbers in (0, 1), (B, blocks, 4) in float32 and (B, blocks, 2) in float64."""
    pairs = _pairs(at)
    if dtype == torch.float64:
        return _unit(pairs >> 12 & MASK52, 52)
    words = torch.stack((pairs >> 32 & MASK, pairs & MASK), -1).flatten(2)
    return _unit(words, 32).to(dtype).clamp_(max=1 - 2**-24)  # the float below 1, which rounding can reach


def normal_blocks(at: Address, dtype: torch.dtype, spare: list[NDArray[np.uint8]]) -> Tensor:
    """Standard normal numbers, (B, blocks, 4) in float32 and (B, blocks, 2) in float64.

    `spare` is a list that keeps the CPU's work space for the next draw.
    """
    if at.ids.device.type != "cpu":
        return _box_muller(_pairs(at), dtype).flatten(2)
    z = torch.empty(len(at.ids), at.blocks, 2 if dtype == torch.float32 else 1, 2, dtype=dtype)
    # Out of the list while in use, so that two threads never write to one work space.
    lanes = _lanes(min(len(at.ids) * at.blocks, CHUNK))
    memory = spare.pop() if spare else _work_space(lanes)
    if memory.size < LANE * lanes:
        memory = _work_space(lanes)
    _fill_normal(z.numpy(), at, memory)
    spare.append(memory)
    return z.flatten(2)


def check_range(name: str, value: int, bits: int) -> int:
    """`value`, if it is an integer in [0, 2^bits)."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if not 0 <= number < 1 << bits:
        raise ValueError(f"{name} must be in [0, 2^{bits}), got {number}")
    return number


def _key(seed: int) -> tuple[int, int]:
    number = check_range("seed", seed, 64)
    return number & MASK, number >> 32


@lru_cache(maxsize=64)
def _round_keys(key: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    return tuple(((key[0] + r * W0) & MASK, (key[1] + r * W1) & MASK) for r in range(10))


# On any device, in torch.


def _pairs(at: Address) -> Tensor:
    """Words (0, 1) and (2, 3) of every block, the first of each pair high in its int64: (B, blocks, 2)."""
    block = torch.arange(at.blocks, device=at.ids.device)
    # full, not tensor: a copy from the host would make a GPU wait, and cannot be part of a CUDA graph
    step = at.step[:, None] if isinstance(at.step, Tensor) else torch.full((), at.step, device=at.ids.device)
    stream = torch.full((), at.stream, device=at.ids.device)
    c0, c1, c2, c3 = philox4x32((block, step, at.ids[:, None], stream), _key(at.seed))
    return torch.stack((c0 << 32 | c1, c2 << 32 | c3), -1)


def _unit(words: Tensor, bits: int) -> Tensor:
    """(w + 1/2) / 2^bits in float64, exact up to 52 bits, so that it is neither 0 nor 1."""
    return (words.double() + 0.5) * 2.0**-bits


def _box_muller(pairs: Tensor, dtype: torch.dtype) -> Tensor:
    """Pairs of words (B, blocks, 2) to normals (B, blocks, 2 in float32 or 1 in float64, 2)."""
    if dtype == torch.float32:
        u, angle = _unit(pairs >> 32 & MASK, 32), pairs << 32
    else:
        u, angle = _unit(pairs[..., :1] >> 12 & MASK52, 52), pairs[..., 1:]
    # log u in float64: near u = 1 a float32 has not the digits of 1 - u, on which small radii depend.
    r = (-2 * u.log()).to(dtype).sqrt()
    a = angle.to(dtype) * (2 * math.pi * 2.0**-64)  # the words as signed ones: an angle in [-pi, pi]
    return torch.stack((r * a.cos(), r * a.sin()), -1)


# On the CPU, in numpy: the same arithmetic, over twice as fast. A call costs less, so do log, cos and sin,
# and memory is reused, because touching it for the first time takes longer than the arithmetic.


def _lanes(blocks: int) -> int:
    """A multiple of 64 lanes, the last ones idle.

    The vector loops of log, cos and sin may round a remainder differently, and no number may depend on its place in
    the batch.
    """
    return -(-blocks // 64) * 64


def _work_space(lanes: int) -> NDArray[np.uint8]:
    return torch.empty(LANE * lanes, dtype=torch.uint8).numpy()  # torch aligns memory to 64 bytes, numpy to 16


def _fill_normal(z: Floats, at: Address, memory: NDArray[np.uint8]) -> None:
    """Fill `z` (B, blocks, 2 or 1, 2) by rectangles of samples and blocks that fit the work space."""
    ids, blocks = at.ids.numpy().view(np.uint64)[:, None], np.arange(at.blocks, dtype=np.uint64)
    steps = np.broadcast_to(np.asarray(at.step).astype(np.uint64).reshape(-1, 1) << _32, ids.shape)
    rows = max(1, CHUNK // max(1, at.blocks))
    for i in range(0, len(ids), rows):
        for j in range(0, at.blocks, CHUNK):
            part = z[i : i + rows, j : j + CHUNK]
            m, r, q, _ = part.shape
            n = _lanes(m * r)
            S, T = memory[: 32 * n].view(np.uint64).reshape(2, 2, n)
            u = memory[32 * n : (32 + 8 * q) * n].view(np.float64).reshape(q, n)
            radius, cos, sin = memory[48 * n : 72 * n].view(z.dtype).reshape(3, q, n)
            _fill_pairs(S, T, ids[i : i + rows], steps[i : i + rows], blocks[j : j + CHUNK], at)
            _fill_polar(S, T, u, radius, cos, sin)
            part[..., 0] = cos[:, : m * r].reshape(q, m, r).transpose(1, 2, 0)
            part[..., 1] = sin[:, : m * r].reshape(q, m, r).transpose(1, 2, 0)


def _fill_pairs(S: Words, T: Words, ids: Words, steps: Words, blocks: Words, at: Address) -> None:
    """`_pairs` in place: the rows of `S` (2, n) begin with c0:c1 and c2:c3 for ids (m, 1) and blocks (r,).

    `steps` (m, 1) are in the upper half of their words.

    With A = c0:c1 and B = c2:c3, a round is A <- M1 (B >> 32) ^ (A ^ k0) << 32
    and B <- M0 (A >> 32) ^ (B ^ k1) << 32 at once: both halves of a product fall where they belong.
    `T` is scratch.
    """
    (k0, k1), (l0, l1), *keys = _shifted_round_keys(_key(at.seed))
    # The first round sees either the id and step or the block, and so does the second up to its last operation.
    a = ids * _M1 ^ k0 ^ steps
    b = blocks * _M0 ^ k1 ^ np.uint64(at.stream << 32)
    first, second = S[:, : a.size * b.size].reshape(2, a.size, b.size)
    np.bitwise_xor((b >> _32) * _M1, a << _32 ^ l0, out=first)
    np.bitwise_xor((a >> _32) * _M0, b << _32 ^ l1, out=second)
    s0, s1 = S
    t0, t1 = T
    for k0, k1 in keys:
        np.right_shift(S, _32, out=T)
        t0 *= _M0
        t1 *= _M1
        S <<= _32
        s0 ^= k0
        s1 ^= k1
        s0 ^= t1
        s1 ^= t0


def _fill_polar(S: Words, T: Words, u: Floats, radius: Floats, cos: Floats, sin: Floats) -> None:
    """`_box_muller` in place: from `S` and scratch `T`, both (2, n), to cos and sin, already times radius."""
    if radius.dtype == np.float32:
        words, bits = np.right_shift(S, _32, out=T), 32
        angle = np.left_shift(S, _32, out=S)
    else:
        words, bits = np.right_shift(S[:1], 12, out=T[:1]), 52
        angle = S[1:]
    np.copyto(u, words.view(np.int64))
    u += 0.5
    u *= 2.0**-bits
    np.log(u, out=u)
    u *= -2
    np.copyto(radius, u, casting="same_kind")
    np.sqrt(radius, out=radius)
    np.copyto(sin, angle.view(np.int64), casting="same_kind")
    sin *= 2 * math.pi * 2.0**-64
    np.cos(sin, out=cos)
    np.sin(sin, out=sin)
    cos *= radius
    sin *= radius


# Arrays, because numpy would convert a plain number at every call, a third of the cost of a small draw.
_M0, _M1, _32 = (np.array(number, np.uint64) for number in (M0, M1, 32))


@lru_cache(maxsize=64)
def _shifted_round_keys(key: tuple[int, int]) -> list[tuple[Words, Words]]:
    """The round keys, moved to the upper half of a pair."""
    return [(np.array(k0 << 32, np.uint64), np.array(k1 << 32, np.uint64)) for k0, k1 in _round_keys(key)]
