"""Acceleration: half precision, layouts, compiling, replaying a recorded loop; and no step makes the host wait.

Where there is no GPU, torch's device "meta" stands for one: its tensors have no values, so that whatever would have to
wait for a value fails.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from problems import gaussian, mixture
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import scoresde as sd
from scoresde import _philox, acceleration, nets, solvers
from scoresde.sde import Level
from scoresde.solvers import Solver
from scoresde.solvers.predictor_corrector import PredictorCorrector

SHAPE = (3, 8, 8)
DEFAULTS = [
    found()
    for found in map(solvers.__dict__.get, solvers.__all__)
    if isinstance(found, type) and issubclass(found, Solver) and found is not Solver
]
FIXED: dict[str, Solver] = {
    str(solver): solver
    for solver in (
        *(solver for solver in DEFAULTS if not solver.adaptive),
        *(solvers.DDIM(eta=1.0), solvers.AdamsBashforth(4), solvers.DPMSolver(3, sde=True), solvers.TorchSDE("srk")),
        *(PredictorCorrector(), PredictorCorrector(size="norms")),
    )
}
by_solver = pytest.mark.parametrize("solver", FIXED.values(), ids=FIXED.keys())
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


def network(channels: int = 3, device: str = "cpu") -> sd.NetDenoiser:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nets.build("tiny", (channels, *SHAPE[1:]))
        for p in module.parameters():  # its output starts at zero
            nn.init.normal_(p, std=0.05)
    shape = (channels, *SHAPE[1:])
    return sd.EpsNet(module, sd.VP(), condition=sd.LogSNR(-11, 12), shape=shape).to(device)


class Watched(sd.Wrapped):
    """Shows every state to a function."""

    def __init__(self, inner: sd.Denoiser, see: Callable[[Tensor], object]) -> None:
        super().__init__(inner)
        self.see = see

    def predict(self, x: Tensor, t: Level) -> Tensor:
        self.see(x)
        return self.inner.predict(x, t)


# --- nothing makes the host wait -----------------------------------------------------------------------


class NoCopies(TorchDispatchMode):
    """Refuses to copy between devices, which waits as well."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        found = {leaf.device.type for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)}
        if len(found) > 1 and func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            raise RuntimeError(f"{func} from one device to another")
        return out


def follow_on_meta(denoiser: sd.Denoiser, solver: Solver) -> None:
    """The loop, first step to last, where tensors have no values."""
    assert denoiser.shape is not None
    noise = sd.CounterNoise(3, torch.arange(2), denoiser.shape, denoiser.dtype, "meta")
    x = noise.start()
    assert x.device.type == "meta"
    times = sd.grids.GRIDS[solver.grid](denoiser.sde, 5, denoiser.max_log_snr)
    with torch.no_grad():
        denoiser.predict(x, denoiser.sde.at(1.0))  # what is copied to the device once
        with NoCopies():
            for _, state in sd.trajectory(solver.reverse(denoiser), solver, times, x, noise):
                assert state.x.device.type == "meta"


@by_solver
def test_no_step_reads_a_value_or_copies_between_devices(solver: Solver) -> None:
    follow_on_meta(sd.EpsNet(nets.build("tiny", (2,)), sd.VP(), shape=(2,)).to("meta"), solver)


def test_neither_does_the_u_net_nor_a_wrapper() -> None:
    for wrap in (sd.Clipped, sd.DynamicallyClipped, sd.ChannelsLast):
        follow_on_meta(wrap(network(device="meta")), solvers.Ancestral())


def test_neither_do_other_predictions_and_processes() -> None:
    module = network(device="meta").module
    follow_on_meta(sd.NetDenoiser(module, sd.VE(), sd.PredictsEDM(), shape=SHAPE), solvers.UniPC())
    follow_on_meta(sd.NetDenoiser(module, sd.RectifiedFlow(), sd.PredictsV(), shape=SHAPE), solvers.Ancestral())


def test_neither_do_exact_laws() -> None:
    law = mixture(3, 4)
    law.device = torch.device("meta")
    follow_on_meta(law.denoiser(sd.VP()), solvers.Heun())
    data = sd.Empirical(torch.zeros(5, 2))
    data.data = data.data.to("meta")
    follow_on_meta(data.denoiser(sd.VP()), solvers.Heun())


READS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool((x > 0).all()),
    "float": lambda x: float(x.flatten()[0]),
    "nonzero": lambda x: (x > 0).nonzero(),
    "mask": lambda x: x[x > 0],
    "cpu": lambda x: x.cpu(),
    "copy": lambda x: x + torch.tensor([0.5]).to(x.device),
    "number": lambda x: x + torch.tensor(0.5).to(x),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS.keys())
def test_a_read_in_a_step_would_be_found(read: Callable[[Tensor], object]) -> None:
    plain = sd.EpsNet(nets.build("tiny", (2,)), sd.VP(), shape=(2,)).to("meta")
    looks: list[Tensor] = []

    def see(x: Tensor) -> None:
        looks.append(x)
        if len(looks) > 2:  # in the second step
            read(x)

    with pytest.raises((RuntimeError, NotImplementedError)):
        follow_on_meta(Watched(plain, see), solvers.Euler())
    assert len(looks) == 3


# --- half precision ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", acceleration.HALF, ids=str)
def test_autocast_lowers_the_network_and_not_the_state(dtype: torch.dtype) -> None:
    plain, inside, states = network(), set(), set()
    plain.module.first.register_forward_hook(lambda module, inputs, out: inside.add(out.dtype))
    denoiser = Watched(sd.Autocast(plain, dtype), lambda x: states.add(x.dtype))
    x = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        lowered = denoiser.predict(x, plain.sde.at(0.5))
        assert inside == {dtype}
        exact = plain.predict(x, plain.sde.at(0.5))
    assert lowered.dtype == torch.float32
    assert 0 < (lowered - exact).norm() / exact.norm() < 4 * torch.finfo(dtype).eps
    a = sd.sample(denoiser, steps=5, n=2)
    assert a.dtype == torch.float32
    assert states == {torch.float32}
    b = sd.sample(plain, steps=5, n=2)
    assert 0 < (a - b).norm() / b.norm() < 4 * torch.finfo(dtype).eps


def test_autocast_can_be_clipped_and_differentiated() -> None:
    denoiser = sd.DynamicallyClipped(
        sd.Autocast(sd.NetDenoiser(network().module, sd.VP(), sd.PredictsX0(), shape=SHAPE))
    )
    assert sd.sample(denoiser, steps=2).abs().max() <= 1
    x = torch.randn(2, *SHAPE, requires_grad=True)
    sd.Autocast(network()).x0(x, 0.5).square().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sd.Autocast(network(), torch.float32), r"torch.float32; .* torch.bfloat16 or torch.float16"),
        (lambda: sd.Autocast(network().double()), "this one is torch.float64"),
        (lambda: sd.Autocast(gaussian(torch.float32).denoiser(sd.VP())), "MixtureDenoiser has none"),
        (lambda: sd.ChannelsLast(gaussian().denoiser(sd.VP())), "MixtureDenoiser has none"),
        (lambda: sd.ChannelsLast(sd.EpsNet(nets.MLP(2), sd.VP(), shape=(2,))), r"samples are of shape \(2,\)"),
        (lambda: sd.compiled(gaussian().denoiser(sd.VP()), 3), "MixtureDenoiser has none"),
        (lambda: sd.compiled(sd.EpsNet(nets.MLP(2), sd.VP()), 3), "give shape="),
    ],
)
def test_what_cannot_be_accelerated_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# --- layouts -------------------------------------------------------------------------------------------


@by_solver
def test_states_stay_channels_last_in_every_step(solver: Solver) -> None:
    plain = network()
    expected = sd.sample(plain, solver, steps=4, n=2)
    layouts = []
    see = lambda x: layouts.append(x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous())  # noqa: E731
    denoiser = Watched(sd.ChannelsLast(copy.deepcopy(plain)), see)
    weights = [p for p in denoiser.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    assert weights
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
    x = sd.sample(denoiser, solver, steps=4, n=2)
    assert all(layouts) or isinstance(solver, solvers.TorchSDE)  # torchsde works on flat states
    torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-4)


def test_grey_pictures_and_encoding_work_in_channels_last_too() -> None:
    plain = network(1)
    denoiser = sd.ChannelsLast(copy.deepcopy(plain))
    x = sd.sample(denoiser, steps=4, n=2)
    torch.testing.assert_close(x, sd.sample(plain, steps=4, n=2), rtol=1e-4, atol=1e-4)
    layouts = []
    denoiser = Watched(sd.ChannelsLast(network()), lambda x: layouts.append(x.stride()))
    latents = sd.encode(denoiser, torch.zeros(2, *SHAPE), steps=3)
    assert {stride[1] for stride in layouts} == {1}
    torch.testing.assert_close(latents, sd.encode(network(), torch.zeros(2, *SHAPE), steps=3), rtol=1e-4, atol=1e-4)


# --- compilers -----------------------------------------------------------------------------------------


def test_a_compiled_network_is_used_in_sampling_only_and_keeps_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[tuple[int, ...]] = []

    def compile_(function: Any) -> Any:
        def fast(x: Tensor, condition: Tensor) -> Any:
            used.append((*x.shape, torch.is_grad_enabled()))
            return function(x, condition)

        return fast

    monkeypatch.setattr(torch, "compile", compile_)
    denoiser = network()
    names, expected = list(denoiser.state_dict()), sd.sample(denoiser, steps=2, n=2, batch_size=4)
    denoiser.train()
    assert sd.compiled(denoiser, batch_size=4) is denoiser
    assert denoiser.training
    assert used == [(4, *SHAPE, False)]
    used.clear()
    assert torch.equal(sd.sample(denoiser, steps=2, n=2, batch_size=4), expected)
    assert used == [(4, *SHAPE, False)] * 2
    used.clear()
    denoiser.predict(torch.zeros(1, *SHAPE), denoiser.sde.at(0.5))  # in training mode
    assert used == []
    assert list(denoiser.state_dict()) == names


def test_without_a_compiler_it_is_said_and_nothing_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(function: Any) -> Any:
        def fail(*inputs: Any) -> Any:
            raise RuntimeError("no C++ compiler\nlong story")

        return fail

    monkeypatch.setattr(torch, "compile", no_compiler)
    denoiser = network()
    with pytest.warns(UserWarning, match=r"torch.compile does not work here \(no C\+\+ compiler\); going on without"):
        sd.compiled(denoiser, batch_size=2)
    assert "forward" not in vars(denoiser.module)
    sd.sample(denoiser, steps=1)


@pytest.mark.slow
def test_torch_compile_itself_gives_the_same_samples() -> None:
    denoiser = network()
    expected = sd.sample(denoiser, steps=3, n=3, batch_size=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        assert acceleration.compile_sampling(denoiser, batch_size=2) is None
        x = sd.sample(denoiser, steps=3, n=3, batch_size=2)
    torch.testing.assert_close(x, expected, rtol=1e-3, atol=1e-4)


# --- a recorded loop -----------------------------------------------------------------------------------


class Tape(TorchDispatchMode):
    """Records what is done to tensors and does it again on the same memory, as a CUDA graph does, without a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self.done.append((func, args, kwargs, out))
        return out

    def replay(self) -> None:
        for func, args, kwargs, out in self.done:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def on_tape(run: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, Callable[[], None]]:
    run()
    with Tape() as tape:
        end = run()
    end.fill_(torch.nan)  # a replay must write it
    return end, tape.replay


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise in torch as on a GPU: a tape does not see numpy."""

    def normal_blocks(at: _philox.Address, dtype: torch.dtype, spare: object) -> Tensor:
        return _philox._box_muller(_philox._pairs(at), dtype).flatten(2)

    monkeypatch.setattr("scoresde.noise.normal_blocks", normal_blocks)


@pytest.mark.usefixtures("as_on_a_gpu")
@by_solver
def test_a_replayed_loop_gives_the_same_bits_for_every_batch(solver: Solver) -> None:
    denoiser, graph = mixture(3, 4).denoiser(sd.VP()), acceleration.CudaGraph(on_tape)
    which = {"ids": [7, 3, 11, 0, 2], "steps": 4, "batch_size": 2, "seed": 5}  # three batches, the last one filled up
    assert torch.equal(sd.sample(denoiser, solver, loop=graph, **which), sd.sample(denoiser, solver, **which))
    assert graph.recordings == 1
    which["ids"] = [8, 9]
    assert torch.equal(sd.sample(denoiser, solver, loop=graph, **which), sd.sample(denoiser, solver, **which))
    assert graph.recordings == 1


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_recording_serves_its_own_loop_only_and_sees_weights_change() -> None:
    graph, plain = acceleration.CudaGraph(on_tape), network()
    now: dict[str, Any] = {"denoiser": plain, "solver": solvers.Ancestral(), "times": [1.0, 0.5, 0.0], "n": 2}

    def check(recordings: int, **change: Any) -> None:
        now.update(change)
        assert torch.equal(sd.sample(**now, loop=graph), sd.sample(**now))
        assert graph.recordings == recordings

    check(1)
    check(1, x1=torch.ones(2, *SHAPE))
    check(1, x1=None)
    with torch.no_grad():
        for p in plain.parameters():
            p.mul_(1.5)
    check(1)
    check(2, seed=1)
    check(3, n=3)
    check(4, times=[1.0, 0.4, 0.0])
    check(5, solver=solvers.Ancestral("large"))
    check(6, denoiser=sd.Clipped(plain))
    for p in plain.parameters():
        p.data = p.data.clone() * 0.5  # other memory
    check(7)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_what_one_replay_answered_is_not_changed_by_the_next() -> None:
    denoiser, graph, solver = mixture(3, 4).denoiser(sd.VP()), acceleration.CudaGraph(on_tape), solvers.Ancestral()
    ends = []
    for ids in (torch.tensor([0, 1]), torch.tensor([2, 3])):
        noise = sd.CounterNoise(0, ids, (3,), torch.float64)
        x = noise.start() * denoiser.sde.prior_std()
        ends.append(graph(solver.reverse(denoiser), solver, sd.grids.uniform(4), x, noise))
    assert graph.recordings == 1
    assert torch.equal(torch.cat(ends), sd.sample(denoiser, solver, steps=4, n=4, batch_size=2))


@pytest.mark.usefixtures("as_on_a_gpu")
def test_progress_and_bad_values_are_told_once_the_replay_is_over() -> None:
    calls: list[int] = []
    denoiser, graph = network(), acceleration.CudaGraph(on_tape)
    tell = lambda: calls.append(1)  # noqa: E731
    sd.sample(denoiser, solvers.Heun(), steps=3, n=4, batch_size=2, loop=graph, on_step=tell)
    assert len(calls) == 6
    with torch.no_grad():
        denoiser.module.first.bias.fill_(torch.nan)
    with pytest.raises(sd.NumericalError, match=r"sample 0 of the batch is not finite after step 1 of 3"):
        sd.sample(denoiser, solvers.Heun(), steps=3, n=4, batch_size=2, loop=graph)


def test_bad_values_that_a_second_run_does_not_show_are_an_error_all_the_same() -> None:
    def broken(run: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, Callable[[], None]]:
        return run().fill_(torch.nan), lambda: None

    with pytest.raises(sd.NumericalError, match="in a second run they were"):
        sd.sample(network(), solvers.Heun(), steps=2, loop=acceleration.CudaGraph(broken))


@pytest.mark.parametrize("solver", [s for s in DEFAULTS if s.adaptive], ids=str)
def test_a_solver_that_looks_cannot_be_recorded(solver: Solver) -> None:
    with pytest.raises(ValueError, match="chooses its steps by what it finds, and a CUDA graph cannot look"):
        sd.sample(network(), solver, loop=acceleration.CudaGraph(on_tape))


def test_a_graph_on_the_cpu_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="needs a GPU, but the denoiser is on the cpu"):
        sd.sample(network(), solvers.Heun(), steps=2, loop=sd.CudaGraph())


# --- on a GPU ------------------------------------------------------------------------------------------


@on_a_gpu
@by_solver
def test_no_step_synchronises(solver: Solver) -> None:
    denoiser = network(device="cuda").eval()
    times = sd.grids.GRIDS[solver.grid](denoiser.sde, 5, denoiser.max_log_snr)
    noise = sd.CounterNoise(3, torch.arange(2), SHAPE, device="cuda")
    x = noise.start()
    try:
        with torch.no_grad():
            for mode in ("default", "error"):  # once to get ready
                torch.cuda.set_sync_debug_mode(mode)
                for _ in sd.trajectory(solver.reverse(denoiser), solver, times, x, noise):
                    pass
    finally:
        torch.cuda.set_sync_debug_mode("default")


@on_a_gpu
@by_solver
def test_a_cuda_graph_gives_the_samples_of_the_loop(solver: Solver) -> None:
    denoiser, graph = network(device="cuda"), sd.CudaGraph()
    which = {"ids": [7, 3, 11, 0, 2], "steps": 4, "batch_size": 2, "seed": 5}
    x = sd.sample(denoiser, solver, loop=graph, **which)
    torch.testing.assert_close(x, sd.sample(denoiser, solver, **which), rtol=1e-3, atol=1e-4)
    assert torch.equal(x, sd.sample(denoiser, solver, loop=graph, **which))
    assert graph.recordings == 1


@on_a_gpu
def test_all_of_it_together_on_a_gpu() -> None:
    denoiser = sd.ChannelsLast(sd.Autocast(network(device="cuda")))
    x = sd.sample(denoiser, steps=5, n=5, batch_size=2, loop=sd.CudaGraph())
    torch.testing.assert_close(x, sd.sample(network(device="cuda"), steps=5, n=5), rtol=0.1, atol=0.1)
