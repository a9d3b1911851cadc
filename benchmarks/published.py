"""The budget that each method was published with: the `own` lines of benchmarks/table.py start from it.

Figures are those of methods/synthesis.md and methods/quantization.md, which name paper and code. Rates stay
those of the recipe, which fit fewer steps. A recipe that is not here has its published figures in its file, or none.
"""

from __future__ import annotations

_PICTURES = {
    "synthesis.samples": "5120",
    "synthesis.iterations": "1000",
    "synthesis.patience": "50",
}
_CENTRES = {"synthesis.centre_iterations": "1500"}
_BLOCKS = {"reconstruction.iterations": "20000"}

_OWN = {
    "adaround": {"reconstruction.iterations": "10000"},
    "brecq": _BLOCKS,
    "genie": {
        "synthesis.samples": "1024",
        "synthesis.iterations": "4000",
        "synthesis.patience": "100",
    },
    "genie-m": _BLOCKS,
    "hast": _PICTURES,
    "intraq": _PICTURES,
    "pd-quant": _BLOCKS,
    "qdrop": _BLOCKS,
    "synq": _PICTURES | _CENTRES,
    "synq-qat": {"training.steps": "20000", "training.batch": "256"},
    "texq": _PICTURES | _CENTRES,
}


def own_settings(recipe: str) -> dict[str, str]:
    """Return what --set is given for the published budget of a recipe's own half."""
    return dict(_OWN.get(recipe, {}))
