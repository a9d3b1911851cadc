"""The output folder of a build: which stages are finished, so that a killed run goes on where it stopped.

`manifest.json` names the build (model, target, figures, versions) and, for each finished stage, the digest of what
went in and of every file that came out. A stage whose digest and files are all there is not run again. The manifest
is written last, after the stage's files, so it never claims what is not on disk.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgeq.core.errors import InputError
from edgeq.core.files import digest_file, read_json, write_json
from edgeq.core.progress import Progress
from edgeq.core.serial import digest_of

MANIFEST = "manifest.json"
LOG = "log.jsonl"
SCHEMA = 1


class Workspace:
    """An output folder that belongs to one build.

    Attributes:
        folder: where everything goes.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], *, overwrite: bool) -> None:
        """Claim `folder` for the build that `identity` describes.

        Raises:
            InputError: if the folder holds another build, or files that are not of a build.
        """
        self.folder = folder
        self._identity = identity
        self._stages: dict[str, Any] = {}
        self._is_new = not folder.exists()
        if folder.exists():
            self._take_over(overwrite=overwrite)

    def run(
        self,
        stage: str,
        inputs: dict[str, Any],
        produce: Callable[[], Sequence[str]],
        progress: Progress,
    ) -> None:
        """Run `produce`, or skip it if the stage is finished for the same `inputs`.

        Args:
            stage: its name.
            inputs: everything the result depends on, as plain JSON values; the build's identity is added.
            produce: makes the stage's files in the folder and returns their names relative to it.
            progress: told where a stage is skipped.
        """
        digest = digest_of({"stage": stage, "build": self._identity, "inputs": inputs})
        record = self._stages.get(stage)
        if record is not None and record["digest"] == digest and self._has(record["files"]):
            progress.start(stage, 1, "stage")
            progress.advance()
            progress.finish("finished in an earlier run; kept")
            return
        started = time.monotonic()
        files = produce()
        self._stages[stage] = {
            "digest": digest,
            "files": {name: digest_file(self.folder / name) for name in files},
            "seconds": round(time.monotonic() - started, 2),
        }
        manifest = {"schema": SCHEMA, "build": self._identity, "stages": self._stages}
        write_json(self.folder / MANIFEST, manifest)

    def seconds(self) -> dict[str, float]:
        """Return how long each stage took when it ran."""
        return {stage: record["seconds"] for stage, record in self._stages.items()}

    def discard_if_empty(self) -> None:
        """Remove the folder if this run made it and no stage finished."""
        if self._is_new and not self._stages:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _take_over(self, *, overwrite: bool) -> None:
        if not self.folder.is_dir():
            raise InputError(
                "the output folder is a file",
                why="results go to a folder",
                mend="choose another --out",
                path=self.folder,
            )
        manifest = self.folder / MANIFEST
        if not manifest.is_file():
            if any(item.name != LOG for item in self.folder.iterdir()):
                raise InputError(
                    "the output folder holds files that are not of an edgeq build",
                    why="edgeq never mixes its results with other files, nor deletes them",
                    mend="choose another --out, or empty the folder",
                    path=self.folder,
                )
            return
        data = read_json(manifest)
        if (
            isinstance(data, dict)
            and data.get("schema") == SCHEMA
            and data.get("build") == self._identity
        ):
            self._stages = data["stages"]
        elif overwrite:
            shutil.rmtree(self.folder)
        else:
            raise InputError(
                "the output folder holds another build",
                why=f"it was made from {_difference(data, self._identity)}; going on would mix the two",
                mend="choose another --out, or pass --overwrite to delete the old build",
                path=self.folder,
            )

    def _has(self, files: dict[str, str]) -> bool:
        return all(
            (self.folder / name).is_file() and digest_file(self.folder / name) == digest
            for name, digest in files.items()
        )


def _difference(manifest: Any, identity: dict[str, Any]) -> str:
    """Return what differs between the old build and this one, in words."""
    old = manifest.get("build") if isinstance(manifest, dict) else None
    if not isinstance(old, dict):
        return "a manifest of another version"
    differing = sorted(key for key in {*old, *identity} if old.get(key) != identity.get(key))
    return f"another {', '.join(differing)}"
