"""`python -m erllama_py.serve.cli`: the command `erllama`, where its script is not on the path."""

import sys

from erllama_py.serve.cli import main

sys.exit(main())
