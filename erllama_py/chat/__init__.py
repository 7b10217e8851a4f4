"""What text means: chat templates, stop sequences, characters from bytes. Pure. Doors: `assemble`, `template`."""
