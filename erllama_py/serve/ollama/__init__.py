"""Ollama's API: what its clients and Open WebUI ask for. Its types are those of its reference."""
