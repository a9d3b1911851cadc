"""The program of build.sh as far as it needs no bundle; test_bare_board runs it whole."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.board import __main__, device_check


def interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("option", ["--warm-up-ms", "--duration-s"])
@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_a_time_that_is_none_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    monkeypatch.setattr(__main__, "run_bundle", interrupt)
    assert __main__.main([f"{option}={value}"]) == 3
    assert f"{option} {value} is no time" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("program", "work"), [(__main__, "run_bundle"), (device_check, "check_device")]
)
def test_an_interrupt_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], program: Any, work: str
) -> None:
    monkeypatch.setattr(program, work, interrupt)
    assert program.main([]) == 130
    assert capsys.readouterr().err == "interrupted\n"
