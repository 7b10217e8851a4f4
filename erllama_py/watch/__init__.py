"""What operators see: logs, and the pressure on the memory."""
