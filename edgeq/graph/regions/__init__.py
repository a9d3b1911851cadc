"""Predict how TensorRT groups the nodes of a Q/DQ model into kernels, and in which precision: `predict_regions`.

A prediction from NVIDIA's documentation of how Q/DQ networks are processed; nothing of it was verified on hardware, and
the builder decides by timing. `edgeq engine` reads from the engine what really happened.
"""

from __future__ import annotations

from edgeq.graph.regions.predict import Kind, Region, predict_regions

__all__ = ["Kind", "Region", "predict_regions"]
