"""What surrounds the commands: exit codes, signals and pipes of a real process, progress, lists of ids."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from scoresde.data import DataError
from scoresde.errors import BusyError, CheckpointError, NumericalError
from scoresde_cli import failures, progress, stopping
from scoresde_cli.ids import format_ids, parse_ids

SCORESDE = (sys.executable, "-c", "from scoresde_cli.main import main; main()")


# --- exit codes ----------------------------------------------------------------------------------------


def refused_by_numpy() -> None:
    import numpy as np

    np.stack([np.zeros(2), np.zeros(3)])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (click.UsageError("x"), 2),
        (DataError("x"), 65),
        (CheckpointError("x"), 65),
        (NumericalError("x"), 70),
        (OSError(28, "No space left on device"), 73),
        (PermissionError(13, "Permission denied", "/root"), 73),
        (OSError(30, "Read-only file system"), 73),
        (BusyError("x"), 75),
        (MemoryError(), 75),
        (RuntimeError("x"), 1),
        (KeyError("x"), 1),
        (TypeError("x"), 1),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
        (stopping.Interrupted(signal.SIGINT), 130),
        (stopping.Interrupted(signal.SIGTERM), 143),
        (BrokenPipeError(32, "Broken pipe"), 141),
    ],
)
def test_every_kind_of_failure_has_its_exit_code(error: BaseException, code: int) -> None:
    assert failures.exit_code(error) == code


def test_a_value_error_of_our_own_is_a_mistake_of_the_user_and_any_other_a_bug() -> None:
    with pytest.raises(ValueError, match="goes down") as ours:
        parse_ids("3-1")
    assert failures.exit_code(ours.value) == 2
    with pytest.raises(ValueError, match="shape") as theirs:
        refused_by_numpy()
    assert failures.exit_code(theirs.value) == 1


def test_a_failure_to_write_names_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    failures.tell(PermissionError(13, "Permission denied", "runs/a"))
    assert capsys.readouterr().err == "Error: cannot write runs/a: Permission denied\n"


# --- a real process ------------------------------------------------------------------------------------


def test_ctrl_c_in_a_terminal_stops_saves_and_can_go_on(tmp_path: Path) -> None:
    words = ("train", "moons", "--preset", "tiny", "--threads", "1", "--steps", "100000", "--out", "run")
    with subprocess.Popen([*SCORESDE, *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        metrics = tmp_path / "run/metrics.jsonl"
        deadline = time.monotonic() + 60
        while not metrics.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "To go on: scoresde train moons" in err
    assert len(list((tmp_path / "run/checkpoints").glob("step-*"))) == 1


def test_a_reader_that_goes_away_ends_the_command_without_a_word() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        for words in (["sample", "--list-solvers"], ["--help"]):
            done = subprocess.run([*SCORESDE, *words], stdout=writer, stderr=subprocess.PIPE, text=True)
            assert (done.returncode, done.stderr) == (141, "")
    finally:
        os.close(writer)


def test_a_full_standard_output_is_an_error() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([*SCORESDE, "sample", "--list-solvers"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 73
    assert "No space left" in done.stderr


# --- signals -------------------------------------------------------------------------------------------


def test_the_second_signal_acts_at_once(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    with stopping.deferred() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.signum == signal.SIGTERM
        assert b"once more to stop at once" in capfdbinary.readouterr().err
        with pytest.raises(stopping.Interrupted, match="at once") as caught:
            signal.raise_signal(signal.SIGINT)
    assert caught.value.signum == signal.SIGINT
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


# --- progress ------------------------------------------------------------------------------------------


def test_plain_progress_is_a_line_every_few_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(float(i) for i in range(1000))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    logged: list[str] = []
    with progress.display("step", 20, log=logged.append) as show:
        for step in range(1, 21):
            show.update(step, "loss 1")
            if step == 7:
                show.say("saved")
    lines = capsys.readouterr().err.splitlines()
    assert lines == logged
    assert [line.split("  ")[0] for line in lines] == ["step 5/20", "saved", "step 10/20", "step 15/20", "step 20/20"]
    assert lines[0] == "step 5/20  loss 1  15 s left"


def test_a_terminal_gets_a_bar_and_the_log_the_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    logged: list[str] = []
    with progress.display("step", 3, log=logged.append) as show:
        show.say("[red]saved[/red]")
        for step in (1, 2, 3):
            show.update(step, "loss 1")
    err = capsys.readouterr().err
    assert "[red]saved[/red]" in err
    assert "3/3" in err
    assert logged == ["[red]saved[/red]", "step 3/3  loss 1"]


@pytest.mark.parametrize(("seconds", "words"), [(8.4, "8 s"), (250, "4 min 10 s"), (11_100, "3 h 5 min")])
def test_durations_are_told_as_people_tell_them(seconds: float, words: str) -> None:
    assert progress.duration(seconds) == words


# --- ids -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ids"),
    [("0", [0]), ("0-3", [0, 1, 2, 3]), ("5,1-2", [1, 2, 5]), ("1-2, 2-3", [1, 2, 3]), ("4294967295", [2**32 - 1])],
)
def test_lists_of_ids_are_read_in_order_and_each_once(text: str, ids: list[int]) -> None:
    assert parse_ids(text) == ids
    assert parse_ids(format_ids(ids)) == ids


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "3-1", "1,,2", "1.5", "4294967296", "0-4000000000"])
def test_what_is_no_list_of_ids_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a number|goes down|too large|in parts"):
        parse_ids(text)


def test_ids_are_written_as_ranges() -> None:
    assert format_ids([70, 0, 1, 2, 3]) == "0-3,70"
    assert format_ids([2**32 - 1]) == "4294967295"
    assert format_ids([]) == ""
