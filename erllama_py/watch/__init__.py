"""What tells an operator how things are: logs, and the pressure on the memory."""
