"""The Pareto front and the one sentence."""

from __future__ import annotations

import math

import pytest

from scoresde.compare import Estimate, Measure, Row, advise, faults, pareto

FLOOR = Estimate(1.0, 0.98, 1.02)


def row(
    solver: str,
    steps: int | None,
    value: float,
    half: float = 0.01,
    evaluations: float | None = None,
    faults: tuple[str, ...] = (),
) -> Row:
    cost = evaluations if evaluations is not None else float(steps or 0)
    return Row(f"{solver}-{steps}", solver, steps, cost, 1.0, Estimate(value, value - half, value + half), faults)


def failed(solver: str, steps: int) -> Row:
    return Row(f"{solver}-{steps}", solver, steps, math.nan, math.nan, Estimate(math.nan))


ROWS = [
    row("ancestral", 20, 2.0),
    row("ancestral", 100, 1.3),
    row("ancestral", 250, 1.06),
    row("dpm", 10, 1.5),
    row("dpm", 20, 1.07),
    row("dpm", 50, 1.0),
]


def test_the_front_has_what_nothing_as_cheap_beats() -> None:
    assert [r.label for r in pareto(ROWS)] == ["dpm-10", "dpm-20", "dpm-50"]
    assert [r.label for r in pareto([row("a", 10, 1.0), row("b", 10, 0.9), failed("c", 5)])] == ["b-10"]
    assert [r.label for r in pareto([row("a", 10, 1.0), row("b", 20, 1.0)])] == ["a-10"]
    assert pareto([failed("c", 5)]) == []


def test_the_cheapest_row_within_reach_of_the_floor_is_advised() -> None:
    sentence = advise(ROWS, FLOOR)
    assert sentence.startswith("for this model take dpm with 20 steps: within 1.07 of the floor (")
    assert sentence.endswith("; ancestral needs 250")


def test_the_ratio_is_never_rounded_down() -> None:
    assert "within 1.08 of the floor" in advise([row("dpm", 20, 1.071)], FLOOR)


def test_at_the_floor_is_said_so() -> None:
    assert "take dpm with 20 steps: at the floor, 0.97 of it (" in advise([row("dpm", 20, 0.97)], FLOOR)


def test_the_smaller_error_breaks_a_tie() -> None:
    assert "take b with" in advise([row("a", 10, 1.05), row("b", 10, 1.02)], FLOOR)


def test_a_cheaper_row_that_may_do_as_well_is_said() -> None:
    sentence = advise([row("dpm", 10, 1.2, half=0.3), row("dpm", 20, 1.05)], FLOOR)
    assert "take dpm with 20 steps" in sentence
    assert "; dpm with 10 steps may do as well: 1.20 (" in sentence
    assert "may do as well" not in advise([row("dpm", 10, 1.5), row("dpm", 20, 1.05)], FLOOR)


def test_where_nothing_reaches_the_floor_the_nearest_is_named() -> None:
    rows = [row("em", 50, 3.0), row("em", 100, 2.0), row("em", 20, 5.0)]
    assert advise(rows, FLOOR).startswith(
        "nothing here comes within 1.1 of the floor: nearest is em with 100 steps, 2.00 times the floor ("
    )
    assert "more seeds would tell" not in advise(rows, FLOOR)
    assert "its interval reaches there: more seeds would tell" in advise([row("em", 50, 1.2, half=0.3)], FLOOR)


def test_a_baseline_that_does_not_get_there_is_said_with_its_ratio() -> None:
    sentence = advise([*ROWS, row("em", 1000, 1.4), row("em", 500, 1.6)], FLOOR, baseline="em")
    assert "; em with 1000 steps is at 1.40" in sentence
    assert "ancestral" not in sentence
    assert "needs" not in advise(ROWS[3:], FLOOR)  # nobody to compare with
    assert "needs" not in advise(ROWS, FLOOR, baseline="dpm")


WIDTH = Measure("width", "width in modes", "", ideal=1.0, two_sided=True)
ERROR = Measure("sw2", "sliced W2", "")


@pytest.mark.parametrize(
    ("width", "wrong"),
    [
        (Estimate(0.84, 0.8, 0.88), ("width in modes 0.84",)),
        (Estimate(1.5, 1.4, 1.6), ("width in modes 1.50",)),
        (Estimate(0.92, 0.91, 0.93), ()),  # told apart, and not by much
        (Estimate(0.84, 0.6, 1.08), ()),  # by much, and not told apart
        (Estimate(0.84), ()),  # one seed tells nothing
    ],
)
def test_a_fault_is_both_sure_and_large(width: Estimate, wrong: tuple[str, ...]) -> None:
    far = Estimate(9.0, 8.9, 9.1)  # of a measure that is wrong in one way only: that is what the error is for
    floor = {"width": Estimate(1.0, 0.99, 1.01), "sw2": Estimate(1.0, 0.9, 1.1)}
    assert faults([ERROR, WIDTH], {"width": width, "sw2": far}, floor) == wrong


def test_a_row_with_a_fault_is_not_advised_and_its_solver_is_told_why() -> None:
    rows = [
        row("ancestral", 50, 1.01, faults=("width in modes 0.84",)),
        row("ancestral", 1000, 1.01),
        row("dpm", 5, 1.0, faults=("width in modes 1.50",)),
        row("dpm", 20, 1.02),
    ]
    sentence = advise(rows, FLOOR)
    assert sentence.startswith("for this model take dpm with 20 steps: within 1.02 of the floor (")
    assert sentence.endswith("; ancestral needs 1000 (with 50 steps: width in modes 0.84)")
    short = advise([rows[0], *rows[2:]], FLOOR, baseline="ancestral")
    assert short.endswith("; ancestral with 50 steps is at 1.01, width in modes 0.84")


def test_where_all_rows_have_faults_the_error_alone_decides() -> None:
    rows = [row("dpm", n, e, faults=("width in modes 0.50",)) for n, e in ((5, 2.0), (10, 1.02))]
    assert advise(rows, FLOOR).startswith("for this model take dpm with 10 steps: ")


def test_an_interval_that_reaches_beyond_is_not_called_the_floor() -> None:
    sentence = advise([row("dpm", 20, 0.97, half=0.3)], FLOOR)
    assert sentence.startswith("for this model take dpm with 20 steps: 0.97 times the floor (0.67 to 1.27: more seeds")
    assert "(0.00 to 4.97: more" in advise([row("dpm", 20, 0.97, half=4.0)], FLOOR)


def test_failures_are_named_and_never_advised() -> None:
    sentence = advise([failed("heun", 10), failed("heun", 5), failed("em", 5), *ROWS], FLOOR)
    assert sentence.startswith("for this model take dpm with 20 steps")
    assert sentence.endswith("; heun failed with 5, 10 steps; em failed with 5 steps")
    assert advise([failed("em", 5)], FLOOR) == "no solver gave samples that could be judged; em failed with 5 steps"


def test_costs_are_evaluations_and_not_steps() -> None:
    rows = [row("heun", 10, 1.0, evaluations=20), row("rk45", None, 1.0, evaluations=97.4), row("ddim", 25, 1.0)]
    assert advise(rows, FLOOR).startswith("for this model take heun with 10 steps (20 evaluations): ")
    assert "; heun with 10 steps" not in advise(rows, FLOOR)
    assert "take rk45 (97 evaluations):" in advise(rows[1:2], FLOOR)
    assert advise(rows[:2], FLOOR, baseline="rk45").endswith("; rk45 needs 97 evaluations")


def test_one_seed_is_not_sure() -> None:
    one = Row("dpm-20", "dpm", 20, 20.0, 1.0, Estimate(1.05))
    assert advise([one], Estimate(1.0)) == (
        "for this model take dpm with 20 steps: within 1.05 of the floor; how sure that is, more seeds would tell"
    )


def test_what_there_is_no_advice_on_is_refused() -> None:
    with pytest.raises(ValueError, match="no rows"):
        advise([], FLOOR)
    with pytest.raises(ValueError, match=r"the floor is -0\.1"):
        advise(ROWS, Estimate(-0.1))
