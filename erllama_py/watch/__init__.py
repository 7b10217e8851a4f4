"""What tells an operator how things are: logs now; memory pressure and metrics belong here too."""
