"""The library `huggingface_hub`, imported when it is needed, and its errors as ours: the one place that knows them.

It is the extra `hub`. What is used of it: its settings (`HF_HOME`, `HF_ENDPOINT`, `HF_HUB_OFFLINE`, …), its tokens, its
session with the proxies of the machine, the API of repositories, its locks, and the deletion from its cache.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from erllama_py.errors import HubUnreachable, InvalidOption, NoRoomToPull, NotOnHub, PullDenied, PullError
from erllama_py.hub.retrying import AGAIN
from erllama_py.options.hub_reference import HubReference

INSTALL = 'it needs the extra: pip install "erllama-py[hub]"'
TOKEN = "give a token that may read it: HF_TOKEN in the environment, or `hf auth login`"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def library(reference: object) -> ModuleType:
    """`huggingface_hub`. Raises `PullError` where it is missing."""
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError as error:
        raise PullError(str(reference), f"{error.name or 'huggingface_hub'} is not installed; {INSTALL}") from None
    return huggingface_hub


@contextmanager
def translated(reference: HubReference) -> Iterator[ModuleType]:
    """The library; what it, the network and the disk raise meanwhile comes out as our errors."""
    hub = library(reference)
    import httpx2

    try:
        yield hub
    except (PullError, InvalidOption):
        raise
    except hub.errors.OfflineModeIsEnabled:
        raise HubUnreachable(str(reference), "HF_HUB_OFFLINE is set, and it is not pulled") from None
    except hub.errors.HfHubHTTPError as error:
        raise _answered(hub, reference, error) from error
    except httpx2.TransportError as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise HubUnreachable(str(reference), f"{hub.constants.ENDPOINT} cannot be reached: {why}") from error
    except OSError as error:
        raise _of_disk(reference, error) from error
    except (ValueError, TypeError, KeyError, AttributeError, httpx2.HTTPError, httpx2.InvalidURL) as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        problem = f"{hub.constants.ENDPOINT} does not answer as the hub does: {why}"
        raise PullError(str(reference), problem) from error


def may_pass(hub: ModuleType, error: Exception) -> bool:
    """Whether another try may do where this was raised."""
    import httpx2

    if isinstance(error, hub.errors.HfHubHTTPError):
        return error.response.status_code in AGAIN
    return isinstance(error, httpx2.TransportError)


def _answered(hub: ModuleType, reference: HubReference, error: OSError) -> PullError:
    """What an answer of the hub comes to, by its status and by what the library made of it."""
    name, repo, page = str(reference), reference.repo, f"{hub.constants.ENDPOINT}/{reference.repo}"
    status = getattr(getattr(error, "response", None), "status_code", 0)
    match error:
        case hub.errors.GatedRepoError():
            return PullDenied(name, f"{repo} is gated: accept its terms at {page}, and {TOKEN}")
        case hub.errors.RepositoryNotFoundError():
            return NotOnHub(name, f"the hub has no repository {repo}, or it is private: then {TOKEN}")
        case hub.errors.RevisionNotFoundError():
            return NotOnHub(name, f"{repo} has no revision {reference.revision or 'main'!r}")
        case hub.errors.RemoteEntryNotFoundError():
            return NotOnHub(name, f"{repo} does not have the file any more")
    if status in (401, 403):
        return PullDenied(name, f"the hub refuses to give {repo} ({status}): {TOKEN}")
    if status == 429:
        return HubUnreachable(name, "the hub gets too many requests from here (429): wait some minutes, or log in")
    if status in AGAIN or status >= 500:
        return HubUnreachable(name, f"the hub is out of order: it answers {status}")
    return PullError(name, f"the hub answers {status}")


def _of_disk(reference: HubReference, error: OSError) -> PullError:
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in FULL:
        return NoRoomToPull(str(reference), f"{where}the disk is full")
    return PullError(str(reference), f"{where}{error.strerror or error}")
