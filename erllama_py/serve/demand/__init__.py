"""Models on demand: loaded when a request wants them, unloaded by time, and one for another where memory is bounded.

`plan` decides who is loaded and who goes, `changes` what a changed configuration means; `Keeper` and `Reloading` act.
"""

from erllama_py.serve.demand.fitting import DoesNotFit
from erllama_py.serve.demand.keeper import Keeper
from erllama_py.serve.demand.memory import check_fits, settle
from erllama_py.serve.demand.moves import Load, load_model
from erllama_py.serve.demand.reloading import Reloading

__all__ = ["DoesNotFit", "Keeper", "Load", "Reloading", "check_fits", "load_model", "settle"]
