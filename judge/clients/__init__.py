"""Judges the server by the clients that people use: `python -m judge.clients MODEL.gguf`, a part of `make judge`.

Each snippet of `docs/guides/clients.md` that says `judged with` is run as it stands, in an environment of its own below
`$ERLLAMA_HOME/clients`, against `erllama serve` in a process of its own.
"""
