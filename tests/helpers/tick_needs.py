"""Needs of sequences, as `plan_tick` may meet them: strategies."""

from __future__ import annotations

from hypothesis import strategies as st

from erllama_py.engine.tick_plan import PATIENCE, Need

positions = st.integers(0, 4000)
priorities = st.integers(-2, 2)
waits = st.integers(0, 2 * PATIENCE) | st.integers(0, 20 * PATIENCE)
rows = st.builds(Need, positions, st.just(1), st.just(True), priorities, st.integers(0, 99), waits)
prompts = st.builds(Need, positions, st.integers(1, 4000), st.just(False), priorities, st.integers(0, 99), waits)
needs = st.lists(st.one_of(rows, prompts), max_size=12)
forced = st.builds(Need, positions, st.integers(1, 70), st.just(True), priorities, st.integers(0, 99), waits)
structured = st.lists(st.one_of(rows, forced, prompts), max_size=12)
batches = st.integers(1, 2048) | st.sampled_from([64, 512, 2048])
chunks = st.none() | st.integers(1, 3000)
