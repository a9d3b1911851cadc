from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from table_record import add_record, is_recorded, read_record

WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from table_record import add_record
for seed in range(25):
    add_record(Path(sys.argv[2]), sys.argv[3], seed, {"drop_points": 1.0})
"""


def test_a_missing_file_holds_no_rows(tmp_path: Path):
    assert read_record(tmp_path / "table.json") == {}
    assert not is_recorded(tmp_path / "table.json", "deploy/w4a4/60/edgeq+edgeq", 0, "a")


def test_a_new_seed_stands_beside_the_old_one(tmp_path: Path):
    path = tmp_path / "table.json"
    for seed in (0, 1):
        add_record(path, "row", seed, {"drop_points": 0.5 + seed})
    assert read_record(path) == {"row": {"0": {"drop_points": 0.5}, "1": {"drop_points": 1.5}}}


def test_what_was_measured_with_other_figures_is_not_on_record(tmp_path: Path):
    path = tmp_path / "table.json"
    add_record(path, "row", 0, {"stamp": "a"})
    add_record(path, "row", 1, {})
    assert is_recorded(path, "row", 0, "a")
    assert not is_recorded(path, "row", 0, "b")
    assert not is_recorded(path, "row", 1, "a")


def test_two_processes_do_not_lose_each_others_figures(tmp_path: Path):
    path = tmp_path / "table.json"
    scripts = str(Path(__file__).parents[2] / "benchmarks")
    command = [sys.executable, "-c", WRITER, scripts, str(path)]
    running = [subprocess.Popen([*command, row]) for row in ("one", "two")]
    assert [process.wait() for process in running] == [0, 0]
    record = read_record(path)
    assert {row: len(seeds) for row, seeds in record.items()} == {"one": 25, "two": 25}
    assert [item.name for item in tmp_path.iterdir()] == ["table.json"]
