"""What a child ends with, where it ends by itself. Python's own codes are 1 and 2."""

DONE = 0
REFUSED = 10  # a library said no, in order
WRONG = 11  # what came out is wrong
