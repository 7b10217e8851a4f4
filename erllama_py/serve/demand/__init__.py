"""Models on demand."""
