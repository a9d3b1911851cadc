"""The table's script from end to end on a few pictures: what it writes, and that it does nothing twice."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
import table
from table_record import read_record
from table_rows import stamp_row

FIXTURES = Path(os.environ.get("EDGEQ_FIXTURES") or "nowhere") / "cifar10"
ROWS = {"deploy/w4a4/1/zeroq+minmax", "paper/w4a4/1/zeroq+minmax"}


@pytest.fixture
def fixtures(tmp_path: Path) -> Path:
    """Return a folder with the network and the first 64 test pictures."""
    if not (FIXTURES / "test.zip").exists():
        pytest.skip("EDGEQ_FIXTURES names no folder with cifar10/test.zip")
    folder = tmp_path / "fixtures" / "cifar10"
    folder.mkdir(parents=True)
    (folder / "resnet20_bn.onnx").symlink_to(FIXTURES / "resnet20_bn.onnx")
    with zipfile.ZipFile(FIXTURES / "test.zip") as whole:
        names = [name for name in whole.namelist() if not name.endswith("/")]
        with zipfile.ZipFile(folder / "test.zip", "w") as part:
            for name in names[:64]:
                part.writestr(name, whole.read(name))
    return folder.parent


def test_a_row_is_measured_once_and_on_record_with_all_its_columns(
    fixtures: Path, tmp_path: Path, capsys
):
    record = tmp_path / "table.json"
    words = ["--rows", "zeroq+minmax", "--bits", "w4a4", "--seeds", "0", "--budget", "1"]
    places = {"--fixtures": fixtures, "--record": record, "--keep": tmp_path / "keep"}
    words += [str(word) for pair in places.items() for word in pair]
    table.main(words)
    found = read_record(record)
    assert set(found) == ROWS
    for row in ROWS:
        figures = found[row]["0"]
        assert figures["stamp"] == stamp_row(
            "zeroq", "minmax", setting=row.split("/")[0], bits="w4a4"
        )
        assert 0 <= figures["top1_pct"] <= 100
        assert abs(figures["drop_points"]) <= figures["changed_pct"] <= 100
        assert figures["teacher_forward"] > figures["teacher_backward"] > 0
        assert figures["cpu_s"] > 0.2
        assert figures["peak_mb"] > 100
    assert capsys.readouterr().out.count("drop") == 2

    table.main(words)
    assert capsys.readouterr().out == ""
    assert read_record(record) == found
