"""One seed a build; every random source gets its own from that seed and its own name."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *names: str) -> int:
    """Return a 63-bit seed that depends on `seed` and `names` alone (not on what else draws numbers)."""
    text = "/".join([str(seed), *names])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
