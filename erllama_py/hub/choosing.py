"""Which model of a repository a reference means. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from erllama_py.errors import NotOnHub
from erllama_py.hub.naming import HubModel, same_quant
from erllama_py.options.hub_reference import HubReference

# Where nothing is said: four bits with the k-quants of llama.cpp, as its own tools take; then what is nearest to it in
# size, the smaller loss first; then what is larger.
USUAL = (
    "Q4_K_M", "UD-Q4_K_XL", "Q4_K_XL", "Q4_K_L", "Q4_K_S", "IQ4_NL", "IQ4_XS", "Q4_0", "Q4_1", "MXFP4", "MXFP4_MOE",
    "Q5_K_M", "Q5_K_S", "Q6_K", "Q8_0", "Q3_K_M", "BF16", "F16", "F32",
)  # fmt: skip
MOST_SHOWN = 40  # of what there is instead, in an error


def choose(reference: HubReference, models: Sequence[HubModel]) -> HubModel:
    """The model that is meant. Raises `NotOnHub`, also where several are."""
    found = meant(reference, models)
    if len(found) > 1:
        raise _not_there(reference, "several files fit", found)
    if not found:
        raise _not_there(reference, _nothing(reference, models), models)
    if found[0].missing:
        raise _not_there(reference, f"the repository lacks {found[0].missing} of its files", ())
    return found[0]


def meant(reference: HubReference, models: Sequence[HubModel]) -> Sequence[HubModel]:
    """Those that a reference can mean: one, where it is clear; with none and no quantisation, the usual one."""
    if reference.file is not None:
        return [model for model in models if any(file.path == reference.file for file in model.files)]
    if reference.quant is not None:
        return _of_quant(reference.quant, models)
    if len(models) < 2:
        return models
    for usual in USUAL:
        if found := [model for model in models if model.quant == usual]:
            return found
    return models


def name_among(model: HubModel, models: Sequence[HubModel], repo: str, revision: str | None = None) -> HubReference:
    """The reference that means this model and no other of its repository."""
    quant = model.quant
    if quant is not None and [one for one in models if one.quant == quant] == [model]:
        return HubReference(repo, quant=quant, revision=revision)
    return HubReference(repo, file=model.files[0].path, revision=revision)


def _of_quant(quant: str, models: Sequence[HubModel]) -> list[HubModel]:
    """Of a quantisation in any case; `Q4_K_XL` means `UD-Q4_K_XL` where there is no other."""
    wanted = same_quant(quant)
    exact = [model for model in models if model.quant == wanted]
    return exact or [model for model in models if model.quant == f"UD-{wanted}"]


def _nothing(reference: HubReference, models: Sequence[HubModel]) -> str:
    if not models:
        return "the repository has no GGUF model"
    if reference.file is not None:
        return f"the repository has no model {reference.file!r}"
    return f"the repository has no {reference.quant}"


def _not_there(reference: HubReference, problem: str, instead: Sequence[HubModel]) -> NotOnHub:
    names = tuple(str(name_among(model, instead, reference.repo, reference.revision)) for model in instead)
    shown = ", ".join(names[:MOST_SHOWN]) + (f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else "")
    return NotOnHub(str(reference), f"{problem}; there is {shown}" if names else problem, names)
