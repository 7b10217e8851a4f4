"""Models from the Hugging Face hub: a reference, what it means in a repository, and its files in the hub's own cache.

Knows nothing of runtimes and loads. What is decided stands in `naming`, `choosing`, `retrying`; what blocks is called
from threads of others. huggingface_hub is imported when it is first needed.
"""

from erllama_py.hub.pulling import Pull, pull
from erllama_py.hub.shelf import list_all, list_unfinished, remove, remove_unfinished
from erllama_py.hub.transfer import Unwanted

__all__ = ["Pull", "Unwanted", "list_all", "list_unfinished", "pull", "remove", "remove_unfinished"]
