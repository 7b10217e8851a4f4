"""What a GGUF file is that is no language model: a part of one, or a model of another kind. Pure.

`general.type` says it in newer files; older ones show it by their architecture or the names of their tensors.
"""

from __future__ import annotations

from collections.abc import Iterable

_PROJECTOR = (
    "it is a projector for images or audio (mmproj), a companion of a model: give the file of the model itself; "
    "images and audio are not read here"
)
_ADAPTER = "it is a LoRA adapter{of}, not a model: adapters are not read; merge it into its model and convert that"
_IMPORTANCES = "it is an importance matrix, made for quantizing a model: give the file of the model itself"
# Architectures that stable-diffusion.cpp, ComfyUI and others write, and those of speech; llama.cpp knows none of them.
_PICTURES = {
    "sd1", "sd2", "sd3", "sdxl", "flux", "flux2", "aura", "chroma", "hidream", "lumina2", "qwen_image", "z_image",
    "wan", "ltxv", "hyvid", "hunyuan_video", "cosmos", "mochi", "pig", "kandinsky5",
}  # fmt: skip
_SPEECH = {"whisper", "parakeet", "moonshine", "canary", "sensevoice", "qwen3-asr", "conformer"}
_VOICES = {"kokoro", "parler-tts", "parler_tts", "dia", "snac", "xtts", "f5-tts", "bark", "cosyvoice"}


def what_else(kind: str | None, architecture: str | None, adapter: str | None, tensors: Iterable[str]) -> str | None:
    """What the file is, in words; None for what may be a language model.

    `kind` is its `general.type`, `adapter` its `adapter.type`.
    """
    if kind in ("mmproj", "clip-vision") or architecture == "clip":
        return _PROJECTOR
    if architecture == "controlvector" or adapter == "control_vector":
        return "it is a control vector, not a model: give the file of the model that it steers; vectors are not read"
    if kind == "adapter" or adapter is not None or any(name.endswith((".lora_a", ".lora_b")) for name in tensors):
        return _ADAPTER.format(of=f" for a model of the architecture {architecture!r}" if architecture else "")
    if kind == "imatrix" or any(name.endswith(".in_sum2") for name in tensors):
        return _IMPORTANCES
    if architecture in _PICTURES:
        return f"it makes images or video ({architecture!r}), which llama.cpp does not run: stable-diffusion.cpp does"
    if architecture in _SPEECH:
        return f"it turns speech into text ({architecture!r}), which llama.cpp does not run: whisper.cpp and others do"
    if architecture in _VOICES:
        return f"it turns text into speech ({architecture!r}), which llama.cpp does not run"
    if not architecture:
        return "the file does not name its architecture: it may be a part of a model, such as a decoder of images"
    return None
