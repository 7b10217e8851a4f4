"""Python processes of our own, for what may end the process that does it.

`spawn` begins one, watches it and tells how it ended; `entry` is what runs in it first; the other files are tasks, each
with a function `run`, or what tasks share. A child imports no more of the package than its task names: neither
`erllama_py` nor `erllama_py.engine` runs there, so it is up in some 20 ms. This file must import nothing.
"""
