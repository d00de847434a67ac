"""For accelerators: the network in half precision, memory the way convolutions like it, compilers, CUDA graphs.

    denoiser = sd.ChannelsLast(sd.Autocast(sd.load("runs/photos")).to("cuda"))
    sd.compiled(denoiser, batch_size=64)
    x = sd.sample(denoiser, n=10_000, batch_size=64, loop=sd.CudaGraph())

All of it is off unless asked for. It was written where there is no GPU: numbers, layouts, the replaying of a recorded
loop and that no step makes the host wait are tested there; how much faster it is has not been measured.

The state is float32 throughout, and the coefficients of a step are computed in float64 on the host (`sde.py`): only the
network's arithmetic is lowered.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from scoresde.denoisers import Denoiser, NetDenoiser, Wrapped
from scoresde.noise import CounterNoise
from scoresde.reverse import Reverse
from scoresde.sampling import check_finite, trajectory
from scoresde.sde import Level
from scoresde.solvers import Solver

HALF = (torch.bfloat16, torch.float16)


def networks(denoiser: Denoiser) -> list[nn.Module]:
    """The network modules inside a denoiser; none in an exact one."""
    return [part.module for part in denoiser.modules() if isinstance(part, NetDenoiser)]


def _networks(denoiser: Denoiser, what: str) -> list[nn.Module]:
    found = networks(denoiser)
    if not found:
        raise ValueError(f"{what} is for networks, and {type(denoiser).__name__} has none")
    return found


class Autocast(Wrapped):
    """`inner` with its network's arithmetic in half precision where torch.autocast holds that safe; states are float32.

    Clipping and guidance go around it, not inside: `Clipped(Autocast(net))`.

    Args:
        dtype: bfloat16, or float16, whose range a network may leave.

    Raises:
        ValueError: another dtype, a denoiser without a network, or one that is not float32.
    """

    def __init__(self, inner: Denoiser, dtype: torch.dtype = torch.bfloat16) -> None:
        if dtype not in HALF:
            raise ValueError(f"dtype = {dtype}; autocast lowers a network to torch.bfloat16 or torch.float16")
        _networks(inner, "autocast")
        if inner.dtype != torch.float32:
            raise ValueError(
                f"autocast lowers float32 networks and leaves others as they are; this one is {inner.dtype}"
            )
        super().__init__(inner)
        self.precision = dtype

    def predict(self, x: Tensor, t: Level) -> Tensor:
        # Without the cache of lowered weights: a call uses each of them once, and a recorded graph would go on reading
        # from a cache that is gone.
        with torch.autocast(x.device.type, self.precision, cache_enabled=False):
            prediction = self.inner.predict(x, t)
        return prediction.to(x.dtype)


class ChannelsLast(Wrapped):
    """`inner` with its network's parameters (changed in place) and its states in channels-last memory, for pictures.

    Raises:
        ValueError: a denoiser without a network, or not of (C, H, W).
    """

    def __init__(self, inner: Denoiser) -> None:
        modules = _networks(inner, "channels-last memory")
        if inner.shape is not None and len(inner.shape) != 3:
            raise ValueError(f"channels-last memory is for pictures (C, H, W), but samples are of shape {inner.shape}")
        for module in modules:
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        super().__init__(inner, memory_format=torch.channels_last)

    def predict(self, x: Tensor, t: Level) -> Tensor:
        return self.inner.predict(x.contiguous(memory_format=torch.channels_last), t)


# --- compilers -----------------------------------------------------------------------------------------


def compiled(denoiser: Denoiser, batch_size: int, shape: tuple[int, ...] | None = None) -> Denoiser:
    """The same denoiser, its networks compiled (in place) for sampling with this batch size; minutes the first time.

    In training mode, and where torch.compile does not work (there may be no C++ compiler), which is warned of, they
    are as before. Another batch size compiles again.

    Args:
        shape: of one sample, for a denoiser that does not know it.

    Raises:
        ValueError: a denoiser without a network or of unknown shape.
    """
    why_not = compile_sampling(denoiser, batch_size, shape)
    if why_not is not None:
        warnings.warn(f"torch.compile does not work here ({why_not}); going on without it", stacklevel=2)
    return denoiser


def compile_sampling(denoiser: Denoiser, batch_size: int, shape: tuple[int, ...] | None = None) -> str | None:
    """`compiled`, told in a return value why it did not work."""
    modules = _networks(denoiser, "compiling")
    event = shape or denoiser.shape
    if event is None:
        raise ValueError("the denoiser does not know the shape of a sample; give shape=(...)")
    x = torch.zeros(batch_size, *event, dtype=denoiser.dtype, device=denoiser.device)
    x = x.contiguous(memory_format=denoiser.memory_format)

    def trial() -> None:
        # as sampling calls it: autocast, layout and the lack of gradients are all compiled in
        with torch.no_grad():
            denoiser.predict(x, denoiser.sde.at(0.5))

    was_training = denoiser.training
    denoiser.eval()
    try:
        return compile_forward(modules, lambda module: not module.training, trial)
    finally:
        denoiser.train(was_training)


def compile_forward(
    modules: list[nn.Module], use: Callable[[nn.Module], bool], trial: Callable[[], object]
) -> str | None:
    """Compile the forward of modules, on the instances, so that parameter names stay as they are.

    Args:
        use: whether a module's compiled forward is to be used now, rather than the plain one.
        trial: uses them once.

    Returns:
        Why it did not work; the modules are then as before.
    """
    before = [vars(module).get("forward") for module in modules]
    for module in modules:
        vars(module)["forward"] = _either(module, use)
    try:
        trial()
    except Exception as error:  # a compiler fails in more ways than can be listed
        for module, own in zip(modules, before, strict=True):
            del vars(module)["forward"]
            if own is not None:
                vars(module)["forward"] = own
        return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return None


def _either(module: nn.Module, use: Callable[[nn.Module], bool]) -> Callable[..., Tensor]:
    plain: Any = module.forward
    fast: Any = torch.compile(plain)

    def forward(*inputs: Tensor) -> Tensor:
        answer: Tensor = (fast if use(module) else plain)(*inputs)
        return answer

    return forward


# --- graphs --------------------------------------------------------------------------------------------

Record = Callable[[Callable[[], Tensor], torch.device], tuple[Tensor, Callable[[], None]]]
"""(run, device) -> (what run() answered, a function that does the same work again on the same tensors)."""


def cuda_graph(run: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, Callable[[], None]]:
    """Record `run` as a CUDA graph, after one run in which libraries, compilers and caches get ready.

    `run` must leave the host out: no reading of tensors, no copies from the host, the same kernels every time.

    Raises:
        ValueError: a device that is no CUDA GPU.
    """
    if device.type != "cuda":
        raise ValueError(
            f"a CUDA graph needs a GPU, but the denoiser is on the {device.type}; leave the graph out here"
        )
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            end = run()
    return end, graph.replay


@dataclass(frozen=True, eq=False)
class _Recording:
    """A loop on the tensors `x` and `ids`, which are overwritten before it is played.

    `process` and `weights` are held because the graph reads their memory.
    """

    key: tuple[object, ...]
    process: Reverse
    weights: tuple[Tensor, ...]
    x: Tensor
    ids: Tensor
    end: Tensor
    replay: Callable[[], None]


class CudaGraph:
    """The loop as one CUDA graph, recorded at the first batch and replayed for each: `sample(..., loop=CudaGraph())`.

    All kernels of all steps, whose launching is most of a small network's time, are then launched at once. Recording
    costs a batch or two, and is done anew for another denoiser, solver, grid, seed or shape; give a `batch_size`, so
    that all batches have one shape. Weights may change in place between batches; anything else that a denoiser reads
    on the host (settings, guidance) is as it was when recorded.

    Args:
        record: how the work of a device is recorded.

    Attributes:
        recordings: how many were made; runs: how often the loop was run step by step to make them.

    Raises:
        ValueError: when used: a solver that chooses its own steps; a denoiser that is not on a GPU.
        NumericalError: values that are not finite, named by sample, step and t.
    """

    def __init__(self, record: Record = cuda_graph) -> None:
        self.recordings, self.runs = 0, 0
        self._record = record
        self._last: _Recording | None = None

    @torch.no_grad()
    def __call__(
        self,
        process: Reverse,
        solver: Solver[Reverse],
        times: Tensor,
        x: Tensor,
        noise: CounterNoise,
        on_step: Callable[[], None] | None = None,
    ) -> Tensor:
        """x at times[-1], as `solve`; `on_step` is called for every step once they are all done."""
        if solver.adaptive:
            raise ValueError(
                f"{solver} chooses its steps by what it finds, and a CUDA graph cannot look; "
                "take a solver with fixed steps, or leave the graph out"
            )
        last = self._recording(process, solver, times, x, noise)
        last.x.copy_(x)
        last.ids.copy_(noise.ids)
        last.replay()
        end = last.end.clone()
        check_finite(end, process, solver, times, x, noise)
        if on_step is not None:
            for _ in range(len(times) - 1):
                on_step()
        return end

    def _recording(
        self, process: Reverse, solver: Solver[Reverse], times: Tensor, x: Tensor, noise: CounterNoise
    ) -> _Recording:
        denoiser = process.denoiser
        weights = tuple(w.detach() for w in (*denoiser.parameters(), *denoiser.buffers()))
        key = (
            *(id(denoiser), process.eta, solver, *times.tolist()),
            *(x.shape, x.stride(), x.dtype, x.device, noise.seed, noise.shape, noise.dtype),
            *(w.data_ptr() for w in weights),
        )
        if self._last is None or self._last.key != key:
            self._last = None  # its memory first
            start, ids = x.clone(), noise.ids.to(x.device, copy=True)
            static = replace(noise, ids=ids, device=x.device)  # so that it keeps `ids` itself, and no copy

            def run() -> Tensor:
                self.runs += 1
                end = start
                for _, state in trajectory(process, solver, times, start, static):
                    end = state.x
                return end

            end, replay = self._record(run, x.device)
            self._last = _Recording(key, process, weights, start, ids, end, replay)
            self.recordings += 1
        return self._last
