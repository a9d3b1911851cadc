"""Where the fixtures are that benchmarks measure on."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def add_fixtures(parser: argparse.ArgumentParser) -> None:
    """Add `--fixtures`, the folder that holds cifar10/."""
    parser.add_argument(
        "--fixtures",
        type=Path,
        default=os.environ.get("EDGEQ_FIXTURES"),
        help="folder that holds cifar10/; EDGEQ_FIXTURES if left out",
    )


def cifar10_of(options: argparse.Namespace) -> Path:
    """Return the folder of the CIFAR-10 teacher and its test pictures; the program ends where none is named."""
    if options.fixtures is None:
        sys.exit("error: no fixtures; set EDGEQ_FIXTURES to the folder that holds cifar10/")
    return Path(options.fixtures) / "cifar10"
