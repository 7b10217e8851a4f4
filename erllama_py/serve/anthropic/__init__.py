"""Anthropic's API: messages, their count of tokens, models. Its types are those of its reference."""
