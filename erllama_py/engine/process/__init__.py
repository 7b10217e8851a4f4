"""Engines in processes of their own. Linux only.

Here is the parent's side: a model's engine, its embedders, its vocabulary and its spare. `inside` runs in the child,
`wire` is between the two, `life` looks after the process.
"""
