"""`report.html` of a real build, and the page of `edgeq report`, opened in headless Chromium."""

from __future__ import annotations

import hashlib
import html
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--enable-logging=stderr",
)
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')


@dataclass(frozen=True)
class Opened:
    """What the browser made of a page: its document, what it said on the console, and the addresses it asked for."""

    dom: str
    console: list[str]
    addresses: set[str]

    def title(self) -> str:
        """Return the title, into which a script writes what it found."""
        title = re.search(r"<title>(.*?)</title>", self.dom)
        assert title is not None
        return html.unescape(title[1])


@pytest.fixture(scope="module")
def chromium() -> str:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no Chromium: whether the report opens and sorts was not tried")
    return path


@pytest.fixture
def browse(chromium: str, tmp_path: Path) -> Callable[..., Opened]:
    """Return a function that opens a page, runs a script in a copy of it, and returns what came of it."""

    def run(page: Path, script: str = "", width: int = 1280) -> Opened:
        if script:
            text = POLICY.sub("", page.read_text("utf-8"))
            page = tmp_path / "copy.html"
            page.write_text(text.replace("</body>", f"<script>{script}</script></body>"), "utf-8")
        log = tmp_path / "net.json"
        done = subprocess.run(
            [chromium, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={log}",
             f"--window-size={width},900", "--dump-dom", page.as_uri()],
            capture_output=True, text=True, check=True, timeout=120,
        )  # fmt: skip
        events = json.loads(log.read_text("utf-8"))["events"]
        asked = [event["params"] for event in events if "initiator" in event.get("params", {})]
        urls = {item["url"] for item in asked if item["initiator"] != "not an origin"}
        return Opened(
            dom=done.stdout,
            console=[line for line in done.stderr.splitlines() if "CONSOLE" in line],
            addresses={url for url in urls if not url.startswith(("data:", "file:"))},
        )

    return run


@pytest.fixture(scope="module")
def builds_page(build, edgeq, tmp_path_factory) -> Path:
    """Return the page that compares two builds, the second one with other figures."""
    folder = tmp_path_factory.mktemp("builds")
    shutil.copytree(build.folder, folder / "b10")
    (folder / "b9").mkdir()
    results = json.loads((build.folder / "results.json").read_text("utf-8"))
    results |= {"bits": "w4a4", "evaluation": None, "size_bytes": {"before": 1e6, "after": 9e5}}
    (folder / "b9" / "results.json").write_text(json.dumps(results), "utf-8")
    done = edgeq("report", folder / "b10", folder / "b9", "--out", folder / "page.html")
    assert done.code == 0, done.err
    return folder / "page.html"


# Tells the sort keys of a column, row by row; null where a cell has none.
TELL = """
const keys = (column) => [...document.querySelector('table.sortable').tBodies[0].rows].map(
  (row) => row.cells[column].dataset.key ?? null);
const press = (column) => {
  document.querySelectorAll('th button')[column].click();
  return keys(column);
};
"""


def test_the_page_opens_without_a_complaint_or_a_request(browse, build):
    opened = browse(build.folder / "report.html")
    assert opened.dom.count("<section>") == 8
    assert opened.console == []
    assert opened.addresses == set()


def test_complaints_and_requests_would_be_noticed(browse, build):
    script = "console.error('oh'); new Image().src = 'http://127.0.0.1:9/x.png';"
    opened = browse(build.folder / "report.html", script)
    assert len(opened.console) >= 1
    assert "http://127.0.0.1:9/x.png" in opened.addresses


def test_the_layers_are_sorted_slow_ones_first_and_by_any_heading(browse, build):
    columns = "keys(2), press(2), press(3), press(0), press(0), press(1)"
    script = f"{TELL} document.title = JSON.stringify([{columns}])"
    told = json.loads(browse(build.folder / "report.html", script).title())
    numbers = [[float(key) for key in column if key is not None] for column in told[:5]]
    assert [len(column) for column in numbers] == [9, 9, 12, 13, 13]
    assert numbers[0] == sorted(numbers[0], reverse=True)
    assert numbers[1] == numbers[0][::-1]
    assert numbers[2] == sorted(numbers[2])
    assert (
        told[0][-1] is told[1][-1] is told[2][-1] is None
    )  # what was not counted or compared stays last
    assert numbers[3] == list(range(1, 14))
    assert numbers[4] == numbers[3][::-1]
    assert len(set(told[5])) == 13
    assert told[5][-1] == "logits"


def test_builds_are_sorted_by_any_heading(browse, builds_page):
    opened = browse(builds_page)
    assert (opened.console, opened.addresses) == ([], set())
    script = (
        f"{TELL} document.title = JSON.stringify([keys(0), press(0), press(8), press(4), press(4)])"
    )
    told = json.loads(browse(builds_page, script).title())
    assert told[:2] == [["b10", "b9"], ["b9", "b10"]]  # numbers in names count
    assert [float(key) for key in told[2]] == sorted(float(key) for key in told[2])
    assert told[3][-1] is told[4][-1] is None


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["report", "builds"])
def test_nothing_is_wider_than_the_window(browse, build, builds_page, name, width):
    page = build.folder / "report.html" if name == "report" else builds_page
    script = "document.title = [document.documentElement.scrollWidth, innerWidth].join(' ')"
    content, window = map(int, browse(page, script, width).title().split())
    assert content <= window <= max(width, 500)  # the narrowest window that a headless Chromium has


def test_the_command_in_the_report_makes_this_build(finished, edgeq, digits, monkeypatch):
    text = (finished.folder / "report.html").read_text("utf-8")
    command = re.search(r'<code id="reproduce">(.*?)</code>', text)
    assert command is not None
    monkeypatch.chdir(digits)
    words = shlex.split(html.unescape(command[1]))
    done = edgeq(*words[1:], "--out", finished.folder)
    assert done.code == 0, done.err
    assert done.ran() == []


def test_every_command_to_go_on_with_runs(finished, digits, tmp_path, monkeypatch):
    text = (finished.folder / "report.html").read_text("utf-8")
    commands = [
        html.unescape(found) for found in re.findall(r'<code class="onward">(.*?)</code>', text)
    ]
    on_board = [command for command in commands if command == "edgeq deploy USER@BOARD bundle"]
    assert (len(commands), len(on_board)) == (5, 1)  # an engine is built on the board alone
    shutil.copytree(finished.folder, tmp_path / "OTHER")
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for command in commands:
        if command in on_board:
            continue
        line = command
        for name, folder in {"EDGEQ": ROOT, "MODEL_FOLDER": digits}.items():
            line = line.replace(f"{name}/", f"{shlex.quote(str(folder))}/")
        done = subprocess.run(
            line,
            shell=True,
            cwd=finished.folder,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (command, done.stderr)
    assert json.loads((finished.folder / "latency.json").read_text("utf-8"))["ratio"] > 0


def test_a_measurement_given_later_is_shown_and_nothing_else_is_done(finished, edgeq):
    times = {"digits_bn.onnx": 2.0, "model.qdq.onnx": 1.0}
    sha256 = hashlib.sha256((finished.folder / "model.qdq.onnx").read_bytes()).hexdigest()
    models = [{"model": name, "sha256": sha256, "median_ms": ms} for name, ms in times.items()]
    latency = {"backend": "ONNX Runtime, CPU", "models": models}
    (finished.folder / "latency.json").write_text(json.dumps(latency), "utf-8")
    done = edgeq(*finished.words, "--out", finished.folder)
    assert done.ran() == ["report"]
    text = (finished.folder / "report.html").read_text("utf-8")
    assert "2 ms, now 1 ms (ratio 0.50)" in text
    assert "not measured" in text  # on the device


def test_a_measurement_that_was_cut_off_ends_no_build_and_is_named(finished, edgeq):
    (finished.folder / "latency.json").write_text("")  # what a command that failed leaves
    done = edgeq(*finished.words, "--out", finished.folder)
    assert (done.code, done.ran()) == (0, ["report"]), done.err
    assert done.err.count("latency.json is left out: it is no JSON") == 1
    assert "latency.json is left out" in (finished.folder / "report.html").read_text("utf-8")
