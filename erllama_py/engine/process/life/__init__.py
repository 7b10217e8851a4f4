"""The life of a child as its parent sees it: its begin, its limits, whether it gets on, what it says, what ended it."""
