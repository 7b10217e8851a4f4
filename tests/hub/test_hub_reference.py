"""References to models of the hub: their forms, and that a reference is what its text says."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama_py import HubReference, InvalidOption, parse_options
from erllama_py.options.hub_reference import LONGEST, is_file_in_repo, is_hub_reference
from erllama_py.options.load_call import load_call
from erllama_py.options.model import ModelConfig

WORDS = st.text(string.ascii_letters + string.digits + "_", min_size=1, max_size=12)
NAMES = st.lists(WORDS, min_size=1, max_size=3).map(".".join)
REPOS = st.tuples(NAMES, NAMES).map("/".join)
FILES = st.lists(WORDS, min_size=1, max_size=3).map(lambda parts: "/".join(parts) + ".gguf")
REVISIONS = WORDS | st.just("refs/pr/1") | st.just("0" * 40)


@st.composite
def references(draw: st.DrawFn) -> HubReference:
    """Any reference."""
    revision = draw(st.none() | REVISIONS)
    kind = draw(st.sampled_from(["bare", "quant", "file"]))
    quant, file = (draw(WORDS) if kind == "quant" else None), (draw(FILES) if kind == "file" else None)
    return HubReference(draw(REPOS), quant=quant, file=file, revision=revision)


@given(references())
def test_the_text_of_a_reference_is_that_reference(reference: HubReference) -> None:
    """What is shown can be given again."""
    assert HubReference.parse(str(reference)) == reference


@given(st.text(alphabet="hf:/@.-gu_ab1\0\n é\\", max_size=40).map(lambda text: f"hf:{text}"))
def test_a_text_is_a_reference_or_refused(text: str) -> None:
    """No other error; and what is taken never leaves its repository, nor the folder of the cache."""
    try:
        reference = HubReference.parse(text)
    except InvalidOption:
        return
    assert HubReference.parse(str(reference)) == reference
    assert reference.repo.count("/") == 1
    assert ".." not in reference.repo
    assert "--" not in reference.repo
    assert reference.file is None or is_file_in_repo(reference.file)


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("hf:owner/repo", HubReference("owner/repo")),
        ("HF:Qwen/Qwen3-4B-GGUF:q4_k_m", HubReference("Qwen/Qwen3-4B-GGUF", quant="q4_k_m")),
        ("hf:o/r/x.gguf", HubReference("o/r", file="x.gguf")),
        ("hf:o/r/Q4/x-00001-of-00002.gguf", HubReference("o/r", file="Q4/x-00001-of-00002.gguf")),
        ("hf:o/r@v1.0", HubReference("o/r", revision="v1.0")),
        ("hf:o/r@v1:Q8_0", HubReference("o/r", quant="Q8_0", revision="v1")),
        ("hf:o/r@a/branch:Q8_0", HubReference("o/r", quant="Q8_0", revision="a/branch")),
        ("hf:o/r@v1/Q4/x.gguf", HubReference("o/r", file="Q4/x.gguf", revision="v1")),
        ("hf:o/r@refs/pr/7/x.gguf", HubReference("o/r", file="x.gguf", revision="refs/pr/7")),
        ("hf:o/r@refs/pr/7", HubReference("o/r", revision="refs/pr/7")),
    ],
)
def test_the_forms(text: str, reference: HubReference) -> None:
    """Each form that the guide names."""
    assert HubReference.parse(text) == reference


@pytest.mark.parametrize(
    "text",
    [
        "hf:", "hf:owner", "hf:/repo", "hf:owner/", "hf:o/r:", "hf:o/r/", "hf:o/r/readme.md", "hf:o/../x.gguf",
        "hf:o/r@", "hf:o/r/../x.gguf", "hf:o/r//x.gguf", "hf:o/r/a\\b.gguf", "hf:o/r@../main", "hf:o/r@a b",
        "hf:o--x/r", "hf:-o/r", "hf:o/r:Q4 K", "hf:o/r@v1/", "hf://o/r", "model.gguf", "hf:" + "o/r" + "x" * LONGEST,
    ],
)  # fmt: skip
def test_what_is_no_reference_is_refused_with_the_forms(text: str) -> None:
    """In one line of bounded length."""
    with pytest.raises(InvalidOption) as refused:
        HubReference.parse(text)
    assert refused.value.option == "model_path"
    assert "hf:owner/repo:Q4_K_M" in str(refused.value)
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hf:o/Llama-3.2-1B-Instruct-GGUF:Q4_K_M", "Llama-3.2-1B-Instruct-Q4_K_M"),
        ("hf:o/Tiny.gguf", "Tiny"),
        ("hf:o/r/Q4/model-Q4_0.gguf", "model-Q4_0"),
        ("hf:o/plain@v1", "plain"),
    ],
)
def test_a_model_is_called_as_its_file_mostly_is(text: str, name: str) -> None:
    """Where nothing else is said."""
    assert HubReference.parse(text).name == name


def test_a_configuration_takes_a_reference_as_it_is() -> None:
    """It is no path from the working directory; a path of such a name has `./` before it."""
    assert parse_options({"model_path": "hf:o/r:Q4_0"}, ModelConfig).model_path == "hf:o/r:Q4_0"
    assert not is_hub_reference(parse_options({"model_path": "./hf:o/r"}, ModelConfig).model_path)
    with pytest.raises(InvalidOption, match=r"model_path.*no repository"):
        parse_options({"model_path": "hf:o"}, ModelConfig)


def test_a_reference_alone_is_a_model_and_no_id() -> None:
    """As the path of a file is."""
    assert load_call("hf:o/r", None, {}) == (None, {"model_path": "hf:o/r"})
    assert load_call("mine", "hf:o/r", {}) == ("mine", {"model_path": "hf:o/r"})
