"""What operators see: logs, spans, and the pressure on the memory."""
