"""What is built on the public API alone: the command line, its demo, and models to try it with."""
