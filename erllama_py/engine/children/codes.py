"""What a child ends with, where it ends by itself. Python's own codes are 1, as of `FAILED`, and 2."""

DONE = 0
FAILED = 1  # in Python, before the task was done
REFUSED = 10  # a library said no, in order
WRONG = 11  # what came out is wrong
LOST_PARENT = 12  # who it works for is gone
OUT_OF_MEMORY = 13  # an allocation failed in Python
