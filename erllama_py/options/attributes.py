"""What other libraries call an attribute of a runtime, a model, a result or the package leads to ours. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

_CALLS = {
    "complete({0}prompt), or chat({0}messages)": "generate __call__ create generate_text invoke ainvoke predict",
    "complete({0}prompt)": """
        create_completion completion completions completions_create generate_async acomplete text_completion
    """,
    "chat({0}messages)": """
        create_chat_completion chat_completion chat_completions acreate create_message messages achat responses
    """,
    "stream({0}prompt), or stream_chat({0}messages)": "stream_generate generate_stream astream stream_complete",
    "embed({0}texts)": """
        create_embedding embeddings encode get_embeddings embed_query embed_documents embedding create_embeddings
    """,
}
_MODEL = {
    **{call.format(""): names for call, names in _CALLS.items()},
    "unload()": "close shutdown free stop aclose delete",
    "tokenize(text), detokenize(ids)": "tokenizer decode token_count count_tokens get_num_tokens n_tokens",
    "apply_chat_template(messages)": "apply_template chat_template format_chat",
    "session(), whose turns go on where the last one ended": """
        reset save_state load_state start_chat chat_session history context memory clear
    """,
    "evict() gives its cells free; what is saved stays": "reset_cache clear_cache set_cache flush",
    "info has the facts of the model": """
        n_ctx n_vocab n_embd config model_path name metadata context_opts model_opts path size details show
    """,
    "each result has its own `stats`; counters are the model's": "stats usage metrics timings",
}
_SESSION = {
    "chat(text), or stream_chat(text)": "generate ask send prompt invoke send_message add_message append say",
    "stream_chat(text)": "astream send_message_stream",
    "messages": "history get_history turns memory",
    "trim(turns)": "truncate shorten pop",
    "end()": "close stop delete reset clear free",
}
_RUNTIME = {
    **{call.format("id, "): names for call, names in _CALLS.items()},
    "`async with Runtime() as runtime:` opens it and closes it at its end": """
        start open close aclose stop shutdown startup run connect init initialize setup __call__ exit quit
    """,
    "load_model(id, config)": "load from_pretrained add_model create_model pull get_or_load load_llm load_models",
    "list_models(), and model(id) for one of them": "models get_model list ps loaded_models loaded",
    "unload(id)": "unload_model remove_model delete_model free delete",
    "tree() has the state of all, `cache` that of the cache": "status state stats health info metrics",
    "start_tier(name, spec), stop_tier(name)": "tiers add_tier disk",
}
_RESULT = {
    "`reply` is its text, `message` that as a message": """
        choices text content response output output_text answer generated_text response_text outputs result data
    """,
    "prompt_tokens, len(generated) and cache_delta have the counts": """
        usage eval_count prompt_eval_count num_tokens total_tokens completion_tokens usage_metadata n_tokens
    """,
    "`generated` has the ids of its tokens": "tokens token_ids ids output_ids",
    "finish_reason": "done_reason stop_reason finish status",
    "thinking": "reasoning reasoning_content thinking_content",
    "`parsed` is the value of a reply with a json_schema": "parsed_output output_parsed object value",
    "`stats` has the times, in seconds": "timings total_duration elapsed duration latency time created created_at",
    "erllama_py.plain(result) has it as dicts, lists and texts": """
        model_dump model_dump_json to_dict dict json to_json as_dict asdict
    """,
    "a call that fails raises an `ErllamaError`": "error errors exception",
    "`reply` is the text alone": "strip lower split startswith",
}
_EVENT = {
    "a `TextDelta` has `text`, `Done` the whole `completion`": """
        choices delta content response token message output_text chunk reply
    """,
    "`finish_reason` and counts are in the `completion` of `Done`": "finish_reason usage done_reason",
    "it is told by its class: isinstance(event, erllama_py.TextDelta)": "kind event type",
}
_PACKAGE = {
    'load_model of a runtime: `async with Runtime() as runtime: await runtime.load_model("model.gguf")`': """
        Llama AsyncLlama LLM AsyncLLM AsyncLLMEngine Engine Client AsyncClient OpenAI AsyncOpenAI load load_model
        from_pretrained generate complete completion embed Ollama LlamaCpp ChatLlamaCpp pipeline
        AutoModelForCausalLM AutoTokenizer connect run create stream
    """,
    'pull_model("hf:owner/repo:Q4_K_M"); load_model takes such a name, too': """
        pull download fetch hf_hub_download snapshot_download from_hub
    """,
    "list_pulled() has the models that were pulled, list_models() of a runtime those that are loaded": "list ls models",
    "`grammar` of a request takes its text": "LlamaGrammar Grammar",
    "options are keywords of each call, or `RequestOptions`": """
        SamplingParams GenerationConfig GenerateParams Options ChatOptions CompletionOptions ModelSettings
    """,
    "`DiskTier` and `RamFileTier`, of Runtime(tiers=…)": """
        LlamaCache LlamaDiskCache LlamaRAMCache DiskCache RamTier MemoryTier Tier RAMTier
    """,
    "all errors are subclasses of `ErllamaError`": """
        Error ModelError APIError ResponseError LlamaError OpenAIError BadRequestError NotFoundError ErllamaException
    """,
    "QueueFull": "RateLimitError OverloadedError",
    "with a `deadline` a reply is cut short; DeadlinePassed for embeddings": "APITimeoutError TimeoutError Timeout",
    "messages and tools are mappings": """
        Message ChatMessage UserMessage SystemMessage AssistantMessage HumanMessage Tool FunctionTool
    """,
    "functions with type hints are tools as they are: tools=[function]": "tool function_tool",
}


def _by_name(table: dict[str, str]) -> dict[str, str]:
    return {name: said for said, names in table.items() for name in names.split()}


ATTRIBUTES = {
    "Model": _by_name(_MODEL),
    "Runtime": _by_name(_RUNTIME),
    "Session": _by_name(_SESSION),
    "Completion": _by_name(_RESULT),
    "Event": _by_name(_EVENT),
    "erllama_py": _by_name(_PACKAGE),
}


def no_attribute(owner: str, name: str, table: str | None = None) -> str:
    """What an `AttributeError` says of a name that `owner` does not have, and what there is instead."""
    instead = ATTRIBUTES.get(table or owner, {}).get(name)
    text = f"module {owner!r}" if owner == "erllama_py" else f"{owner!r} object"
    return f"{text} has no attribute {name!r}" + (f": {instead}" if instead else "")


class OtherNames:
    """The base of handles: an attribute that is not there says what there is instead."""

    if not TYPE_CHECKING:  # checkers know the methods

        def __getattr__(self, name):
            """Raises `AttributeError`, as programs that look for a method expect."""
            raise AttributeError(no_attribute(type(self).__name__, name), name=name, obj=self)
