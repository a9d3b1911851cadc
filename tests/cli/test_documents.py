"""Every command in README and docs is run, as it stands, page by page in the order of the page.

A page is run in a folder that holds what its commands name: `model.onnx` (a small network with BatchNorm) and its
build `model.jetson-orin/`, `folded.onnx`, `weights.pth`, `pictures.zip` (labelled), `photos/`, and links to `tools`,
`examples` and `benchmarks`. Recipes get small figures, because a page is about commands and not about accuracy.

Commands are the lines of indented blocks, and of blocks fenced as `sh`, that begin with a program (`PROGRAMS`); Python
is fenced as `python`, and a block whose first line is `# name.py` is a file. An HTML comment in front of a block marks
it:
    <!-- not run: REASON -->    nobody can run it here; the reason is shown as that of a skip
    <!-- alternatives -->       each line is a build of its own, in the place of the one before
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import edgeq.pipeline.job
import edgeq.pipeline.statistics
from edgeq.core.recipes import Recipe, load_recipe

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
)
PROGRAMS = {
    "edgeq",
    "torchrun",
    "python",
    "make",
    "pip",
    "sh",
    "polygraphy",
    "trtexec",
    "scp",
    "ssh",
    "tar",
}
# What works on another machine alone; a test never reaches for one.
ELSEWHERE = (
    "edgeq deploy",
    "edgeq engine",
    "ssh ",
    "scp ",
    "trtexec ",
    "torchrun ",
    "./build.sh",
    "pip ",
    "make ",
)
MARK = re.compile(
    r"<!-- (?:not run: (?P<reason>.+?)|(?P<alternatives>alternatives)) -->", re.DOTALL
)

NET = """g (float[N,3,32,32] input) => (float[N,10] logits)
<float[8,3,3,3] w0, float[8] g0, float[8] b0, float[8] m0, float[8] v0,
 float[8,8,3,3] w1, float[8] g1, float[8] b1, float[8] m1, float[8] v1, float[10,8] w2, float[10] b2>
{
  c0 = Conv<pads=[1,1,1,1], strides=[2,2]>(input, w0)
  n0 = BatchNormalization(c0, g0, b0, m0, v0)
  r0 = Relu(n0)
  c1 = Conv<pads=[1,1,1,1]>(r0, w1)
  n1 = BatchNormalization(c1, g1, b1, m1, v1)
  r1 = Relu(n1)
  p = GlobalAveragePool(r1)
  f = Flatten(p)
  logits = Gemm<transB=1>(f, w2, b2)
}"""
SMALL = {
    "synthesis": {"samples": 16, "batch": 8, "iterations": 2},
    "training": {"steps": 2, "batch": 8, "range_samples": 16},
}


@dataclass(frozen=True)
class Step:
    """A command, a piece of Python, or a file of a page.

    Attributes:
        kind: "command", "python" or "file".
        text: what is run, or the content of the file.
        reason: why it is not run; "" where it is.
        is_alternative: true if it takes the place of the build before it.
    """

    kind: str
    text: str
    reason: str
    is_alternative: bool


def read_blocks(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield the blocks of a page: the comment in front of each, its kind ("" where it is indented) and its text."""
    comment, lines = "", iter(text.splitlines(keepends=True))
    line = next(lines, "")
    while line:
        if line.lstrip().startswith("<!--"):
            comment = line
            while "-->" not in comment:
                comment += next(lines)
        elif line.startswith("```"):
            kind, block = line[3:].strip(), []
            while (line := next(lines)) != "```\n":
                block.append(line)
            yield comment, kind, "".join(block)
            comment = ""
        elif line.startswith("    "):
            block = []
            while line.startswith("    "):
                block.append(line[4:])
                line = next(lines, "")
            yield comment, "", "".join(block)
            comment = ""
            continue
        elif line.strip():
            comment = ""
        line = next(lines, "")


def read_steps(text: str) -> Iterator[Step]:
    """Yield what a page has its readers do, in order."""
    for comment, kind, block in read_blocks(text):
        mark = MARK.search(comment)
        reason = " ".join((mark["reason"] or "").split()) if mark else ""
        is_alternative = bool(mark and mark["alternatives"])
        if kind == "python":
            is_file = re.match(r"# \S+\.py\n", block) is not None
            yield Step("file" if is_file else "python", block, reason, is_alternative)
        elif kind in {"", "sh"}:
            for line in re.sub(r"\\\n\s*", "", block).splitlines():
                command = line.split("  #")[0].strip()
                if command.split(" ")[0] in PROGRAMS or command.startswith("./"):
                    yield Step("command", command, reason, is_alternative)


def small_recipe(*words: object, **options: object) -> Recipe:
    """Return the recipe asked for, with figures that take a second."""
    made = load_recipe(*words, **options)
    parts = {key: dataclasses.replace(getattr(made, key), **SMALL[key]) for key in SMALL}
    return dataclasses.replace(made, **parts)


@pytest.fixture(scope="module")
def stock(edgeq, parse_graph, tmp_path_factory) -> Path:
    """Return a folder with the files that pages name."""
    folder = tmp_path_factory.mktemp("stock")
    rng = np.random.default_rng(0)
    norms = {name: 0.5 + rng.random(8, np.float32) for name in ("g0", "v0", "g1", "v1")}
    model = parse_graph(NET, **norms)
    onnx.save(model, folder / "model.onnx")
    from edgeq.graph.batchnorm import fold_batchnorm

    onnx.save(fold_batchnorm(model).model, folder / "folded.onnx")
    save_weights(model, folder / "weights.pth")
    (folder / "photos").mkdir()
    with zipfile.ZipFile(folder / "pictures.zip", "w") as archive:
        for label in range(10):
            path = folder / "photos" / f"{label}.png"
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(path)
            archive.write(path, f"class_{label}/{path.name}")
    for name in ("tools", "examples", "benchmarks"):
        (folder / name).symlink_to(ROOT / name)
    with pytest.MonkeyPatch.context() as patch:
        use_small_recipes(patch)
        patch.chdir(folder)
        done = edgeq("build", "model.onnx", "--target", "jetson-orin", "--preset", "cifar10")
    assert done.code == 0, done.err
    return folder


def save_weights(model: onnx.ModelProto, path: Path) -> None:
    """Write the state dict that a PyTorch user would have of `model`."""
    found = {item.name: torch.from_numpy(onnx.numpy_helper.to_array(item).copy())
             for item in model.graph.initializer}  # fmt: skip
    state = {f"conv{i}.weight": found[f"w{i}"] for i in (0, 1)}
    for i in (0, 1):
        for word, short in (
            ("weight", "g"),
            ("bias", "b"),
            ("running_mean", "m"),
            ("running_var", "v"),
        ):
            state[f"bn{i}.{word}"] = found[f"{short}{i}"]
    state |= {"fc.weight": found["w2"], "fc.bias": found["b2"]}
    torch.save(state, path)


def use_small_recipes(patch: pytest.MonkeyPatch) -> None:
    """Give builds in this process small figures."""
    patch.setattr(edgeq.pipeline.job, "load_recipe", small_recipe)
    patch.setattr(edgeq.pipeline.statistics, "load_recipe", small_recipe)


@pytest.fixture
def folder(stock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the stock, in which this process now is."""
    place = tmp_path / "work"
    shutil.copytree(stock, place, symlinks=True)
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    use_small_recipes(monkeypatch)
    return place


def run_command(text: str, run_edgeq) -> str:
    """Run one command line; return "" or what went wrong."""
    words = shlex.split(text)
    is_plain = not set(words) & {"|", ">", ">>", "&&"}
    if words[0] == "edgeq" and is_plain:
        done = run_edgeq(*words[1:])
        return "" if done.code == 0 else done.err
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    ended = subprocess.run(
        text, shell=True, env=env, capture_output=True, text=True, check=False, timeout=250
    )
    return "" if ended.returncode == 0 else f"{ended.stdout}\n{ended.stderr}"


def writes_default_folder(step: Step) -> bool:
    """Return true if the step is a build that wants the folder where the stock has one."""
    return (
        step.text.startswith("edgeq build model.onnx --target jetson-orin")
        and "--out" not in step.text
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_page_tells_its_readers_to_do_works(page: Path, folder: Path, edgeq) -> None:
    names: dict[str, object] = {"__name__": "page"}
    has_built = False
    for step in read_steps(page.read_text("utf-8")):
        if step.reason:
            continue
        assert not step.text.startswith(ELSEWHERE), f"mark it as not run: {step.text}"
        if step.kind == "file":
            (folder / step.text.split("\n")[0][2:]).write_text(step.text, "utf-8")
        elif step.kind == "python":
            exec(compile(step.text, f"{page.name}: {step.text[:40]!r}", "exec"), names)
        else:
            if writes_default_folder(step) and (step.is_alternative or not has_built):
                shutil.rmtree(folder / "model.jetson-orin", ignore_errors=True)
                has_built = True
            assert run_command(step.text, edgeq) == "", f"{page.name}: {step.text}"


def not_run() -> list[object]:
    """Return what no page's test runs, with the page and the reason."""
    return [
        pytest.param(step.text, step.reason, id=f"{page.relative_to(ROOT)}: {step.text[:60]}")
        for page in PAGES
        for step in read_steps(page.read_text("utf-8"))
        if step.reason
    ]


@pytest.mark.parametrize(("text", "reason"), not_run())
def test_what_cannot_be_run_here_is_listed(text: str, reason: str) -> None:
    pytest.skip(f"{text.splitlines()[0]}: {reason}")


def test_steps_are_read_from_all_forms_of_blocks() -> None:
    page = """# Page

    edgeq a \\
      --b
    {"no": "command"}

<!-- not run: needs a
board -->

    ssh board sh build.sh   # there

```python
# net.py
x = 1
```

```python
print(1)
```

<!-- alternatives -->
```sh
edgeq c
```

```json
edgeq no
```
"""
    assert [dataclasses.astuple(step) for step in read_steps(page)] == [
        ("command", "edgeq a --b", "", False),
        ("command", "ssh board sh build.sh", "needs a board", False),
        ("file", "# net.py\nx = 1\n", "", False),
        ("python", "print(1)\n", "", False),
        ("command", "edgeq c", "", True),
    ]


def test_the_table_of_recipes_is_what_the_script_writes() -> None:
    import runpy

    tool = runpy.run_path(str(ROOT / "tools" / "list_recipes.py"))
    written = tool["write_document"]()
    assert tool["DOCUMENT"].read_text("utf-8") == written, "run python tools/list_recipes.py"
