from __future__ import annotations

import hashlib

from edgeq.core.seeds import derive_seed


def test_a_seed_depends_on_the_number_and_on_every_name():
    seeds = {
        derive_seed(0),
        derive_seed(1),
        derive_seed(0, "train"),
        derive_seed(0, "synthesize"),
        derive_seed(0, "synthesize", "pixels"),
        derive_seed(0, "pixels", "synthesize"),
    }
    assert len(seeds) == 6


def test_a_seed_is_the_same_in_every_process():
    digest = hashlib.sha256(b"3/train").hexdigest()
    assert derive_seed(3, "train") == int(digest[:16], 16) // 2


def test_a_seed_fits_63_bits():
    assert all(0 <= derive_seed(number, "x") < 2**63 for number in range(200))
