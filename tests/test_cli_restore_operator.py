"""`scoresde restore --operator`: measurements of the user's own, their gradients, and what is wrong with them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import restore_cases as cases
import torch
from cli_cases import Call

from scoresde.inverse import GaussianMeasurement
from scoresde.linalg import Dense
from scoresde.mixtures import MIXTURES
from scoresde_cli import names

QUICK = ("--steps", 3, "-n", 3, "--batch-size", 2, "--threads", 1)
MINE = """
import torch
from scoresde.linalg import Dense

def project():
    return Dense([[1.0, 1.0]])

def product(x):
    return (x[:, 0] * x[:, 1])[:, None]
"""


def test_an_operator_of_ones_own_restores_an_array(call: Call) -> None:
    Path("own_a.py").write_text(MINE)
    law, A = MIXTURES["ring8"](), Dense([[1.0, 1.0]])
    np.save("y.npy", np.array([2.0]))
    words = ("restore", "gmm:ring8", "y.npy", "--operator", "own_a:project", "--sigma", 0.1, "-n", 200)
    code, out, err = call(*words, "--batch-size", 200, "--steps", 40)
    assert code == 0, err
    assert out.startswith("restored/gmm-ring8/y-own_a-project-sigma0.1-mmps-40")
    x = cases.samples(out.strip())
    exact = law.posterior(GaussianMeasurement(A, 0.1), torch.tensor([[2.0]], dtype=torch.float64)).sample(10_000, 0)
    spread = exact.sum(1).std()
    assert abs(x.sum(1).mean() - exact.sum(1).mean()) < spread
    assert x.sum(1).std() < 3 * spread
    found = json.loads(Path(out.strip(), "settings.json").read_text())["settings"]
    assert len(found["operator sha256"]) == 64


def test_a_function_of_ones_own_need_not_be_linear(call: Call) -> None:
    Path("own_b.py").write_text(MINE)
    np.save("x.npy", np.array([1.0, 1.1]))
    words = ("restore", "gmm:ring8", "x.npy", "--operator", "own_b:product", "--simulate", "--sigma", 0.2, *QUICK)
    code, _, err = call(*words, "--out", "out")
    assert code == 0, err
    found = cases.metrics("out")
    assert found["settings"]["method"]["name"] == names.DEFAULT_METHOD_ANY
    assert found["notes"]["linear"] is False
    assert "error of the mean" in err
    code, _, err = call(*words, "--method", "mmps", "--out", "other")
    assert code == 2
    assert "own_b:product is not linear, and mmps needs that" in err


OWN_GRADIENTS = """
import numpy as np
import torch
from scoresde import operators

def rounded():
    return operators.Quantise(5)

def through_numpy(x):
    return torch.from_numpy(np.tanh(x.numpy()))

def detached(x):
    return torch.tanh(x.detach())
"""


@pytest.mark.parametrize(
    ("name", "usual"),
    [
        ("rounded", names.DEFAULT_METHOD_ANY),  # its pullback is straight through
        ("through_numpy", names.DEFAULT_METHOD_NO_GRADIENT),
        ("detached", names.DEFAULT_METHOD_NO_GRADIENT),
    ],
)
def test_an_operator_of_ones_own_may_be_without_a_gradient(call: Call, name: str, usual: str) -> None:
    Path("own_d.py").write_text(OWN_GRADIENTS)
    np.save("x.npy", np.float32([0.2, 0.7]))
    words = ("restore", "gmm:ring8", "x.npy", "--operator", f"own_d:{name}", "--simulate", "--sigma", 0.2, *QUICK)
    code, _, err = call(*words, "--out", "out")
    assert code == 0, err
    assert cases.metrics("out")["settings"]["method"]["name"] == usual
    code, _, err = call(*words, "--method", "dps", "--out", "other")
    if name == "rounded":
        assert code == 0, err
        assert "In a limit these do: split-gibbs; see --list-methods" in err
    else:
        assert code == 2
        assert "is not differentiable; take a method that needs no gradient of A, such as DAPS" in err


BAD = """
import torch
from scoresde.linalg import LinearOperator

class Wrong(LinearOperator):
    def __call__(self, x):
        return x[:, :1] + 2 * x[:, 1:]
    def adjoint(self, y):
        return torch.cat([y, y], 1)

def wrong_adjoint():
    return Wrong()

def nothing():
    return 3

def fails(x):
    return x @ torch.ones(5)

def noisy(x):
    return x + torch.randn_like(x)

def not_finite(x):
    return x / 0

def broken():
    raise RuntimeError("no scanner")

number = 3
"""


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("bad", "write MODULE:FUNCTION"),
        ("badd:f", "there is no module badd"),
        ("bad:wrong_adjoin", "Did you mean 'wrong_adjoint'?"),
        ("bad:wrong_adjoint", "<A x, y>"),
        ("bad:nothing", "must return a scoresde Operator, and returned int"),
        ("bad:fails", "fails for x of shape (3, 2) in bad.py, line 18: RuntimeError"),
        ("bad:noisy", "differ by"),
        ("bad:not_finite", "not finite"),
        ("bad:broken", "fails in bad.py, line 27: RuntimeError: no scanner"),
        ("bad:number", "is of type int"),
        ("syntax:f", "SyntaxError"),
    ],
)
def test_an_operator_that_is_wrong_is_refused_with_the_figure(
    call: Call, monkeypatch: pytest.MonkeyPatch, name: str, hint: str
) -> None:
    Path("bad.py").write_text(BAD)
    Path("syntax.py").write_text("def f(:")
    for module in ("bad", "syntax"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    np.save("y.npy", np.zeros(1))
    code, out, err = call("restore", "gmm:ring8", "y.npy", "--operator", name, "--sigma", 0.1, *QUICK, "--out", "out")
    assert hint in " ".join(err.split())
    assert (code, out, "Traceback" in err) == (2, "", False)
    assert not Path("out").exists()


def test_a_measurement_of_another_shape_than_the_operators_is_refused(call: Call) -> None:
    Path("own_c.py").write_text("from scoresde.linalg import Dense\ndef f():\n    return Dense([[1.0, 1.0]])\n")
    np.save("y.npy", np.zeros(2))
    code, _, err = call("restore", "gmm:ring8", "y.npy", "--operator", "own_c:f", "--sigma", 0.1, *QUICK)
    assert code == 65
    assert "y.npy has the shape (2,); own_c:f, with Dense(1 x 2), measures (1,) of x of shape (2,)" in err


ODD = """
import numpy as np
import torch

WIDE = torch.tensor([[1.0, 0.5]], dtype=torch.float64)

def doubles(x):
    return x @ WIDE.T

def root(x):
    return (x * (1 - x)).sqrt()

def weighed(x):
    return x * torch.from_numpy(np.load("w.npy")).to(x)
"""


def test_an_operator_that_computes_in_float64_or_is_built_in_is_taken(call: Call) -> None:
    Path("own_odd.py").write_text(ODD)
    np.save("y.npy", np.array([0.3]))
    np.save("y2.npy", np.array([0.3, 0.4]))
    for name, y in (("own_odd:doubles", "y.npy"), ("torch:abs", "y2.npy")):
        code, _, err = call("restore", "gmm:grid25", y, "--operator", name, "--sigma", 0.1, *QUICK)
        assert code == 0, err


def test_numbers_that_come_from_another_file_are_seen_to_change(call: Call) -> None:
    Path("own_odd.py").write_text(ODD)
    np.save("y2.npy", np.array([0.3, 0.4]))
    words = ("restore", "gmm:grid25", "y2.npy", "--operator", "own_odd:weighed", "--sigma", 0.1, *QUICK, "--out", "out")
    for weights, codes in (([1.0, 0.0], (0, 0)), ([0.0, 1.0], (2, 2))):
        np.save("w.npy", np.array(weights))
        assert tuple(call(*words)[0] for _ in range(2)) == codes
    assert "A(x) sha256 is" in call(*words)[2]


@pytest.mark.parametrize("method", ["split-gibbs", "daps", "diffpir"])
def test_an_operator_that_is_not_finite_on_the_way_is_a_numerical_failure(call: Call, method: str) -> None:
    Path("own_odd.py").write_text(ODD)
    np.save("y2.npy", np.array([0.3, 0.4]))
    words = ("restore", "gmm:grid25", "y2.npy", "--operator", "own_odd:root", "--sigma", 0.1, "--method", method)
    code, _, err = call(*words, *QUICK)
    assert (code, "Traceback" in err) == (70, False)
    assert "not finite" in err
