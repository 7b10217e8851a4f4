"""Where rows lie: memory, shared memory, disk. One actor per store, reached only by name."""
