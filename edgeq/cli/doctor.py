"""`edgeq doctor`: is this machine fit to build, and what is missing?

Runs without any package but those of the command line, because it is asked when something is broken.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import edgeq
from edgeq.cli import options
from edgeq.cli.output import print_json, print_table
from edgeq.core.errors import MissingDependencyError

# Distribution and module: what the main job needs (a test holds this to pyproject.toml), and what it can use.
REQUIRED = {
    "jinja2": "jinja2",
    "numpy": "numpy",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "pillow": "PIL",
    "polygraphy": "polygraphy",
    "rich": "rich",
    "safetensors": "safetensors",
    "torch": "torch",
    "typer": "typer",
    "zstandard": "zstandard",
}
OPTIONAL = {
    "lightning-fabric": "lightning_fabric",
    "paramiko": "paramiko",
    "tensorrt": "tensorrt",
}
if sys.version_info < (3, 11):
    REQUIRED["tomli"] = "tomli"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what was looked at.
        found: what was found, in words.
        mend: what to do about it; empty where nothing is needed.
    """

    name: str
    found: str
    mend: str = ""


def doctor(as_json: options.Json = False) -> None:
    """Check this machine and this installation."""
    checks = [
        Check(name="edgeq", found=edgeq.__version__),
        Check(name="python", found=f"{platform.python_version()}, {platform.platform()}"),
        *(check_package(name, module, is_required=True) for name, module in REQUIRED.items()),
        *(check_package(name, module, is_required=False) for name, module in OPTIONAL.items()),
        *(check_place(name) for name in ("calib", "deploy")),
        check_cuda(),
        *check_machine(),
    ]
    if as_json:
        print_json([{"name": c.name, "found": c.found, "mend": c.mend} for c in checks])
    else:
        print_table(("what", "found"), [(c.name, c.found) for c in checks])
    broken = [check for check in checks if check.mend]
    if broken:
        raise MissingDependencyError(
            f"this installation is not usable: {', '.join(check.name for check in broken)}",
            why="; ".join(f"{check.name}: {check.found}" for check in broken),
            mend="; ".join(dict.fromkeys(check.mend for check in broken)),
        )


def check_package(name: str, module: str, *, is_required: bool) -> Check:
    """Return the version of a distribution, having imported its module."""
    try:
        importlib.import_module(module)
        return Check(name=name, found=importlib.metadata.version(name))
    except (ImportError, OSError) as error:
        # A package that is absent is one thing, one that is there and cannot be loaded another.
        is_absent = isinstance(error, ModuleNotFoundError) and error.name == module
        found = "not installed" if is_absent else f"cannot be loaded: {error}"
    if is_required:
        return Check(name=name, found=found, mend=f"pip install --force-reinstall {name}")
    return Check(name=name, found=f"{found} (optional)")


def check_place(name: str) -> Check:
    """Return whether the package `name` is the one beside edgeq; the word is common and may be another's."""
    beside = Path(edgeq.__file__).resolve().parent.parent / name
    spec = importlib.util.find_spec(name)
    places = [] if spec is None else list(spec.submodule_search_locations or [str(spec.origin)])
    if [Path(place).resolve() for place in places] == [beside]:
        return Check(name=name, found="the one beside edgeq")
    found = f"hidden by {', '.join(places)}" if places else "not found"
    return Check(
        name=name,
        found=found,
        mend=f"rename or uninstall the other '{name}', or start from another folder"
        if places
        else "pip install --force-reinstall edgeq",
    )


def check_cuda() -> Check:
    """Return the CUDA devices that torch sees; none is fine."""
    try:
        import torch
    except (ImportError, OSError):
        return Check(name="cuda", found="not known without torch")
    if not torch.cuda.is_available():
        return Check(name="cuda", found="none: synthesis and training run on the CPU")
    devices = range(torch.cuda.device_count())
    return Check(
        name="cuda",
        found=f"{torch.version.cuda}: {', '.join(torch.cuda.get_device_name(i) for i in devices)}",
    )


def check_machine() -> list[Check]:
    """Return cores, free memory, and free disk in the current folder."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    free_gb = shutil.disk_usage(Path.cwd()).free / 1e9
    return [
        Check(name="cores", found=str(cores)),
        Check(name="free memory", found=_free_memory()),
        Check(name="free disk here", found=f"{free_gb:.1f} GB"),
    ]


def _free_memory() -> str:
    path = Path("/proc/meminfo")  # Linux only
    if path.is_file():
        for line in path.read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return f"{int(line.split()[1]) * 1024 / 1e9:.1f} GB"
    return "not known on this system"
