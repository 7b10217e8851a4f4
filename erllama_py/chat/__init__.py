"""What text means: chat templates, stop sequences, characters from bytes, structures that replies follow. Pure."""
