"""One actor per loaded model: it owns the engine thread and carries out what the scheduler decides."""
