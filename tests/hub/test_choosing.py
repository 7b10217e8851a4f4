"""Which file of a repository is meant: by names as repositories have them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama_py import HubReference, NotOnHub
from erllama_py.hub.choosing import USUAL, choose, meant, name_among
from erllama_py.hub.naming import HubModel, RepoFile, is_model, models_of, quant_of

USUAL_REPO = (
    "README.md", "Tiny-1B-F16.gguf", "Tiny-1B-IQ4_XS.gguf", "Tiny-1B-Q4_K_M.gguf", "Tiny-1B-Q8_0.gguf", "imatrix.dat",
    "mmproj-Tiny-1B-f16.gguf", "Tiny-1B.imatrix.gguf", "imatrix_unsloth.gguf",
)  # fmt: skip
QUANTS = st.sampled_from((*USUAL, "Q2_K", "IQ3_XXS", "Q5_K_L", "UD-Q2_K_XL"))


def models(*paths: str) -> list[HubModel]:
    """The models of a repository that has these files."""
    return models_of(RepoFile(path, 10) for path in paths)


def chosen(text: str, *paths: str) -> list[str]:
    """The files that are chosen."""
    return [file.path for file in choose(HubReference.parse(text), models(*paths)).files]


@pytest.mark.parametrize(
    ("path", "quant"),
    [
        ("Llama-3.2-1B-Instruct-Q4_K_M.gguf", "Q4_K_M"),
        ("tinyllama-1.1b-chat.Q4_K_M.gguf", "Q4_K_M"),
        ("qwen2-0_5b-instruct-q4_0.gguf", "Q4_0"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("gpt-oss-20b-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("x-IQ2_XXS.gguf", "IQ2_XXS"),
        ("x-Q4_0_4_4.gguf", "Q4_0_4_4"),
        ("model-fp16.gguf", "F16"),
        ("model.BF16.gguf", "BF16"),
        ("x-TQ1_0.gguf", "TQ1_0"),
        ("x-Q6_K_L.gguf", "Q6_K_L"),
        ("BF16/Big-BF16-00001-of-00003.gguf", "BF16"),
        ("UD-Q2_K_XL/Big-00001-of-00003.gguf", "UD-Q2_K_XL"),
        ("Q8-chat.gguf", "Q8"),
        ("model.gguf", None),
        ("seq2seq-Q.gguf", None),
    ],
)
def test_names_of_files_say_their_quantisation(path: str, quant: str | None) -> None:
    """As quantisers of the field write it, in the name or the folder."""
    assert quant_of(path) == quant


def test_projectors_importance_matrices_and_texts_are_no_models() -> None:
    """Nor are names that lead out of a folder."""
    assert [path for path in USUAL_REPO if is_model(path)] == list(USUAL_REPO[1:5])
    assert not any(map(is_model, ("../x.gguf", "/x.gguf", "a//x.gguf", "x\n.gguf", "mmproj.gguf", "a/mmproj-x.gguf")))


def test_without_a_quantisation_the_usual_one_is_taken() -> None:
    """Q4_K_M, else what is nearest; and the only one whatever it is."""
    assert chosen("hf:o/r", *USUAL_REPO) == ["Tiny-1B-Q4_K_M.gguf"]
    assert chosen("hf:o/r", "x-Q8_0.gguf", "x-Q4_0.gguf", "x-F16.gguf") == ["x-Q4_0.gguf"]
    assert chosen("hf:o/r", "strange.gguf") == ["strange.gguf"]


@pytest.mark.parametrize("text", ["hf:o/r:Q8_0", "hf:o/r:q8_0", "hf:o/r/Tiny-1B-Q8_0.gguf", "hf:o/r@v1:Q8_0"])
def test_a_quantisation_is_meant_in_any_case(text: str) -> None:
    """And a file by its path."""
    assert chosen(text, *USUAL_REPO) == ["Tiny-1B-Q8_0.gguf"]


def test_names_of_quantisers_stand_for_each_other_where_it_is_clear() -> None:
    """`FP16` is `F16`; `Q4_K_XL` is `UD-Q4_K_XL` where there is no other."""
    assert chosen("hf:o/r:fp16", *USUAL_REPO) == ["Tiny-1B-F16.gguf"]
    assert chosen("hf:o/r:q4_k_xl", "x-UD-Q4_K_XL.gguf", "x-Q4_0.gguf") == ["x-UD-Q4_K_XL.gguf"]
    assert chosen("hf:o/r:q4_k_xl", "x-UD-Q4_K_XL.gguf", "x-Q4_K_XL.gguf") == ["x-Q4_K_XL.gguf"]


def test_a_quantisation_that_is_not_there_lists_what_is() -> None:
    """As references that can be given."""
    with pytest.raises(NotOnHub) as missing:
        chosen("hf:o/r@v1:Q2_K", *USUAL_REPO)
    assert missing.value.available == ("hf:o/r@v1:F16", "hf:o/r@v1:IQ4_XS", "hf:o/r@v1:Q4_K_M", "hf:o/r@v1:Q8_0")
    assert "the repository has no Q2_K; there is hf:o/r@v1:F16," in str(missing.value)
    with pytest.raises(NotOnHub, match=r"no model 'y\.gguf'; there is hf:o/r:F16"):
        chosen("hf:o/r/y.gguf", *USUAL_REPO)
    with pytest.raises(NotOnHub, match=r"no GGUF model$"):
        chosen("hf:o/r", "model.safetensors", "mmproj-f16.gguf")


def test_of_several_that_fit_none_is_guessed() -> None:
    """A repository of several models: the error names each by its file."""
    with pytest.raises(NotOnHub) as several:
        chosen("hf:o/r:Q4_0", "a-Q4_0.gguf", "b-Q4_0.gguf")
    assert several.value.available == ("hf:o/r/a-Q4_0.gguf", "hf:o/r/b-Q4_0.gguf")
    with pytest.raises(NotOnHub, match="several files fit"):
        chosen("hf:o/r", "a.gguf", "b.gguf")


def test_a_long_list_is_cut() -> None:
    """The field has all of it."""
    with pytest.raises(NotOnHub) as missing:
        chosen("hf:o/r:Q2_K", *(f"m{number}.gguf" for number in range(100)))
    assert len(missing.value.available) == 100
    assert str(missing.value).endswith("and 60 more")


PARTS = ("Q4_K_M/Big-00002-of-00003.gguf", "Q4_K_M/Big-00003-of-00003.gguf", "Q4_K_M/Big-00001-of-00003.gguf")


@pytest.mark.parametrize("text", ["hf:o/r", "hf:o/r:Q4_K_M", f"hf:o/r/{PARTS[0]}"])
def test_a_model_in_several_files_comes_whole_and_in_order(text: str) -> None:
    """By its quantisation, or by any of its files."""
    assert chosen(text, *PARTS, "x-Q8_0.gguf") == sorted(PARTS)


def test_a_part_that_the_repository_lacks_is_said() -> None:
    """Before anything is downloaded."""
    with pytest.raises(NotOnHub, match="lacks 1 of its files"):
        chosen("hf:o/r", *PARTS[:2])


@given(st.lists(QUANTS, min_size=1, max_size=8, unique=True), st.randoms())
def test_each_model_of_a_repository_can_be_named(quants: list[str], chance: object) -> None:
    """The name that is shown of a model means it, and its files are those of the repository."""
    there = models(*(f"x-{quant}.gguf" for quant in quants))
    assert len(there) == len(quants)
    for model in there:
        assert choose(name_among(model, there, "o/r"), there) == model


@given(st.lists(QUANTS, min_size=1, max_size=8))
def test_whatever_is_meant_is_there(quants: list[str]) -> None:
    """Nothing is made up, whatever is asked for; and without a quantisation something is meant."""
    there = models(*(f"{number}/x-{quant}.gguf" for number, quant in enumerate(quants)))
    for text in ("hf:o/r", "hf:o/r:Q4_K_M", "hf:o/r/0/x-Q8_0.gguf"):
        found = meant(HubReference.parse(text), there)
        assert all(model in there for model in found)
        assert found or text != "hf:o/r"


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=10, unique=True))
def test_no_names_of_parts_confuse_the_count(parts: list[tuple[int, int]]) -> None:
    """Repositories may hold any names: a model is whole only with the files 1 to n."""
    for model in models(*(f"x-{number:05}-of-{count:05}.gguf" for number, count in parts)):
        count = int(model.files[0].path[-10:-5])
        there = {number for number, of in parts if of == count}
        assert model.missing == len(set(range(1, count + 1)) - there)
