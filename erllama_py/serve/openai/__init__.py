"""OpenAI's API: chat completions, completions, embeddings, ranking, models. Its types are those of its reference."""
