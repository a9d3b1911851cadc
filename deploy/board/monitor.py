"""TensorRT's nested phases as one line of progress, and an interrupt that ends a build cleanly.

TensorRT tells of phases inside phases, each with a number of steps (`IProgressMonitor`, from 10.0). A phase takes one
step of its parent, so the outermost phase has a fraction, which is passed on in whole per cent. An exception must not
leave a callback, for C++ is above it: it is kept, the build is called off, and `build` raises it again.
"""

from typing import TYPE_CHECKING, Any, Dict, Optional

from edgeq.core.progress import Progress

if TYPE_CHECKING:
    import tensorrt


class _Phase:
    def __init__(self, parent: Optional[str], steps: int) -> None:
        self.parent = parent
        self.steps = steps
        self.done = 0


class PhaseTracker:
    """Turns phases into per cent of the outermost one.

    Attributes:
        progress: who hears of it.
        error: what went wrong in a callback; the build is called off at the next step.
    """

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.error: Optional[BaseException] = None
        self._phases: Dict[str, _Phase] = {}
        self._root: Optional[str] = None
        self._said_pct = 0

    def start(self, name: str, parent: Optional[str], steps: int) -> None:
        """Open a phase; the first without a parent becomes the stage that people see."""
        self._phases[name] = _Phase(parent=parent, steps=max(steps, 1))
        if self._root is None and not parent:
            self._root, self._said_pct = name, 0
            self.progress.start(name, 100, "%")

    def step(self, name: str, step: int) -> None:
        """Count a phase's step, numbered from 0, as done."""
        phase = self._phases.get(name)
        if phase is not None:
            phase.done = min(max(phase.done, step + 1), phase.steps)
            self._say()

    def finish(self, name: str) -> None:
        """Close a phase."""
        if name == self._root:
            self._advance_to(100)
            self._root = None
            self.progress.finish("done")
        self._phases.pop(name, None)

    def _say(self) -> None:
        if self._root is not None:
            self._advance_to(min(int(100 * self._fraction(self._root)), 99))

    def _advance_to(self, pct: int) -> None:
        if pct > self._said_pct:
            self.progress.advance(pct - self._said_pct)
            self._said_pct = pct

    def _fraction(self, name: str) -> float:
        """Return how much of a phase is done, with the part of its running step that its children did."""
        phase = self._phases[name]
        running = [key for key, item in self._phases.items() if item.parent == name]
        inside = sum(self._fraction(key) for key in running) / len(running) if running else 0.0
        return min((phase.done + inside) / phase.steps, 1.0)


def watch_build(trt: Any, config: "tensorrt.IBuilderConfig", progress: Progress) -> PhaseTracker:
    """Have the phases of the build with `config` passed on to `progress`.

    Args:
        trt: the `tensorrt` module, 10.0 or newer.
        config: of the build.
        progress: who hears of it; no stage of it may be open.

    Returns:
        What follows the phases; its `error` must be looked at after the build.
    """
    tracker = PhaseTracker(progress)

    class Forward(trt.IProgressMonitor):  # type: ignore[misc]  # the base is known at run time only
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)  # without it the process dies when TensorRT calls

        def phase_start(self, phase_name: str, parent_phase: Optional[str], num_steps: int) -> None:
            self._guard("start", phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._guard("step", phase_name, step)
            return tracker.error is None

        def phase_finish(self, phase_name: str) -> None:
            self._guard("finish", phase_name)

        def _guard(self, event: str, *arguments: Any) -> None:
            if tracker.error is not None:
                return
            try:
                getattr(tracker, event)(*arguments)
            except BaseException as error:  # an interrupt too: nothing may pass through C++
                tracker.error = error

    config.progress_monitor = Forward()
    return tracker
