"""Models with a recurrent state, as files that are made on the spot: random weights, and the proportions of real ones.

None is among the models that these benchmarks fetch. What counts here is what a state and a token's cells take, for
bytes and tokens are counted, not times. `lfm2` has the layers and the kinds of heads of LFM2 350M at a quarter of its
width: its state is worth 6.7 tokens of its cells, as there. `mamba` is Mamba 130M at a third of the width: a state, and
nothing else.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

STATE_MODELS = {"mamba": "Mamba, 24 layers of 256", "lfm2": "LFM2, 16 layers of 256"}

_ATTENTION = (2, 5, 8, 10, 12, 14)  # layers, of 16
_SIZES: dict[str, dict[str, Any]] = {
    "mamba": {"WIDTH": 256, "SSM_INNER": 512, "SSM_STATE": 16, "SSM_RANK": 16, "LAYERS": {"recurrent": 24}},
    "lfm2": {
        "WIDTH": 256, "FEED_FORWARD": 512, "HEADS": 8, "KV_HEADS": 4, "LAYERS": {"hybrid": 16},
        "HYBRID_KV_HEADS": [4 * (layer in _ATTENTION) for layer in range(16)],
    },
}  # fmt: skip
_KINDS = {"mamba": "recurrent", "lfm2": "hybrid"}


def state_model(name: str, folder: Path) -> Path:
    """Path of such a model, which is written into the folder."""
    from helpers import tiny_gguf

    kind: Any = _KINDS[name]
    with patch.multiple(tiny_gguf, **_SIZES[name]):
        return tiny_gguf.tiny_gguf(kind, folder)
