"""What other libraries call an option, and what is said here in another way than by an option. Pure.

`CALLED_ELSEWHERE` has names whose letters would not lead to ours, from llama.cpp's tools, llama-cpp-python, Ollama,
OpenAI's API, vLLM, Transformers and outlines; a name may stand at several of ours, and the one that the caller can give
counts.
`INSTEAD` has names that no option stands for: what to write instead.
"""

from __future__ import annotations

import re

MOST_NAME = 100  # characters of a name that are looked at: longer than any option's

CALLED_ELSEWHERE = {
    "response_tokens": """
        max_tokens max_new_tokens max_completion_tokens max_output_tokens max_length max_response_tokens
        max_gen_len max_tokens_to_sample n_predict num_predict
    """,
    "stop_sequences": "stop stop_words stop_strings stop_sequence stops",
    "stop_token_ids": "eos_token_id stop_tokens stop_ids",
    "json_schema": """
        response_format response_model response_schema format guided_json structured_outputs output_type
        output_schema json json_mode
    """,
    "regex": "guided_regex pattern",
    "choice": "guided_choice enum choices",
    "grammar": "guided_grammar grammar_string gbnf lark ebnf cfg",
    "logprobs": "top_logprobs n_probs return_logprobs output_logprobs output_scores",
    "logprobs_after": "post_sampling_probs",
    "prompt_logprobs": "logprob_start_len",
    "n": "num_return_sequences best_of n_cmpl",
    "reproducible": "deterministic",
    "temperature": "temp",
    "typical_p": "typ_p typical",
    "xtc_probability": "xtc_p",
    "repetition_penalty": "repeat_penalty penalty_repeat rep_pen",
    "frequency_penalty": "penalty_freq",
    "presence_penalty": "penalty_present",
    "penalty_last_n": "repeat_last_n",
    "dry_multiplier": "no_repeat_ngram_size",
    "mirostat": "mirostat_mode",
    "mirostat_eta": "mirostat_lr",
    "mirostat_tau": "mirostat_ent",
    "logit_bias": "bad_words suppress_tokens bad_words_ids",
    "min_tokens": "min_new_tokens min_length",
    "samplers": "sampler_order sampler_seq sampling_seq",
    "seed": "random_seed",
    "thinking": "think enable_thinking reasoning",
    "thinking_markers": "reasoning_parser thinking_tags",
    "thinking_budget_tokens": "thinking_budget budget_tokens reasoning_budget thinking_token_budget",
    "thinking_budget_message": "reasoning_budget_message",
    "deadline": "timeout request_timeout max_time time_limit",
    "session_id": "id_slot slot_id conversation_id thread_id chat_id previous_response_id conversation",
    "tools": "functions",
    "tool_choice": "function_call",
    "template_kwargs": "chat_template_kwargs documents",
    "exact_turns": "preserve_thinking",
    "max_rounds": "max_steps max_turns max_iterations",
    "normalize": "normalize_embeddings embd_normalize",
    "dimensions": "truncate_dim",
    "top_n": "top_k_documents",
    "model_path": "path model filename file gguf model_file model_name model_name_or_path hf_file",
    "n_ctx": """
        num_ctx ctx_size context ctx max_model_len max_seq_len max_seq_length context_length max_context_len
        context_window
    """,
    "n_seq_max": "parallel n_parallel num_parallel max_num_seqs max_batch_size np",
    "n_batch": "batch_size num_batch max_num_batched_tokens",
    "n_ubatch": "ubatch_size",
    "n_gpu_layers": "num_gpu ngl gpu_layers n_gpu num_gpu_layers device_map device gpu cuda",
    "n_threads": "num_thread threads num_threads",
    "n_threads_batch": "threads_batch",
    "use_mmap": "mmap",
    "use_mlock": "mlock",
    "split_mode": "sm tensor_parallel_size pipeline_parallel_size",
    "tensor_split": "max_memory",
    "flash_attn": "flash_attention attn_implementation fa",
    "type_k": "cache_type_k kv_cache_dtype kv_cache_type ctk",
    "type_v": "cache_type_v ctv",
    "offload_kqv": "kv_offload",
    "isolation": "isolate isolated subprocess in_process",
    "memory_bytes": "mem_limit memory_limit memory_max max_ram rlimit",
    "cpus": "cpu_affinity affinity cpuset cpuset_cpus cpu_mask",
    "nice": "niceness prio",
    "intensity": "max_restarts",
    "tiers": "disk disk_cache cache_dir cache_path slot_save_path prompt_cache kv_cache_dir",
    "ram_quota_bytes": "cache_ram ram_quota cache_size ram_cache_size capacity_bytes",
    "root": "path dir directory folder location",
    "replies": "reply responses answers",
    "seconds_per_token": "delay latency token_delay",
    "quota_bytes": "size max_size quota capacity max_bytes size_bytes limit max_size_bytes",
}
ELSEWHERE: dict[str, tuple[str, ...]] = {}
for _name, _others in CALLED_ELSEWHERE.items():
    for _other in _others.split():
        ELSEWHERE[_other] = (*ELSEWHERE.get(_other, ()), _name)

_SAID = {
    'a DiskTier keeps it: Runtime(tiers={"disk": DiskTier("/a/directory")}), and tier="disk" of the model': """
        disk disk_cache cache_dir cache_path slot_save_path prompt_cache kv_cache_dir
    """,
    "the calls `stream` and `stream_chat` stream": "stream streaming stream_options",
    'it is a message: {"role": "system", "content": "…"}': "system system_prompt instructions",
    "what is asked goes first: complete(prompt), chat(messages)": "messages prompt prompts input inputs query text",
    "a request goes to the model whose method is called; another one is runtime.model(id)": "model model_id",
    "the id goes first: load_model(id, config)": "id name alias served_model_name",
    "read the events of `stream` or `stream_chat` as they come": """
        callback callbacks on_token streamer callback_manager
    """,
    "leave the block of a stream, or cancel the task that waits": "signal cancel abort stopping_criteria",
    "give its fields by keyword; a mapping of options goes to `options`": """
        sampling_params generation_config extra_body generate_kwargs model_kwargs kwargs parameters
        sampling_options
    """,
    "there is none of it: steer by logit_bias, by a grammar or by the samplers": """
        logits_processor logits_processors tfs_z penalize_nl top_a penalty_alpha epsilon_cutoff eta_cutoff
        encoder_repetition_penalty guidance_scale
    """,
    "there is no beam search; `n` draws several replies": """
        num_beams beam_width use_beam_search length_penalty early_stopping num_beam_groups
    """,
    "a reply never repeats its prompt; prompt_logprobs scores one": "return_full_text echo",
    'it goes to the template: template_kwargs={"reasoning_effort": "low"}': "reasoning_effort effort",
    "they are left out by default: special=True shows them": "skip_special_tokens remove_special_tokens",
    "temperature=0.0 always takes the likeliest token": "do_sample greedy",
    "it is the other way round: model_opts.use_mmap=False": "no_mmap",
    "it is the other way round: context_opts.offload_kqv=False": "no_kv_offload",
    "a conversation goes on in a session: model.session()": "context history",
    "a prompt begins as its model expects; as a list of ids it is taken as it is": "add_special_tokens add_bos bos",
    "vectors are an array: tolist() makes lists, tobytes() bytes": "encoding_format output_dtype",
    "they are given with each request; a dict of them goes to `options`": """
        request default_options defaults request_options default_params default_request options_default
    """,
    "prefixes are saved in memory by themselves; `policy` says when, Runtime(tiers=…) where else": "cache caching",
    "a crashed model is always started again, within a budget": "restart auto_restart",
    "it runs in the event loop of its `async with`": "loop event_loop",
    "put the model's own tokens for filling in into a prompt of `complete`": """
        suffix infill input_prefix input_suffix
    """,
    "text alone is read, no images and no audio": """
        images image audio modalities mmproj clip_model_path mm_projector multi_modal_data limit_mm_per_prompt
        mm_processor_kwargs chat_handler image_url
    """,
    "prompts are never cut: one that is too long raises ContextOverflow, and a session can drop its oldest turns": """
        n_keep num_keep n_discard context_shift truncation truncate_prompt_tokens context_overflow overflow
        rolling_window
    """,
    "prefixes are found by their tokens, without being asked for; `policy` says what is saved": """
        cache_prompt use_cache enable_prefix_caching prompt_cache_key cache_key prompt_cache_retention
        cache_control past_key_values kv_unified
    """,
    "calls and structures are always followed to the letter": "strict",
    "it says something to a hosted service alone: leave it out": """
        user metadata store service_tier safety_identifier extra_headers extra_query api_key base_url
        organization
    """,
    "a crashed model is loaded again by itself, and its open calls go on: see on_crash": """
        max_retries retries num_retries
    """,
    "`chat` always opens the reply; continue_final_message continues one": "add_generation_prompt",
    "`complete` takes a prompt as it is, without a template": "raw",
    "a GGUF file is quantised as it is: choose another file; of the KV cells it is context_opts.type_k and type_v": """
        dtype torch_dtype quantization quantization_config quant load_in_4bit load_in_8bit bits f16_kv
    """,
    "memory is what weights and context_opts.n_ctx take: inspect_model(path) has the bytes": """
        gpu_memory_utilization swap_space low_vram vram offload_folder cpu_offload_gb
    """,
    "the tokenizer and the code are those of the GGUF file and of llama.cpp": """
        tokenizer tokenizer_path tokenizer_mode use_fast trust_remote_code revision
    """,
    "conversations follow the template in the file; a request can give another: chat_template": """
        chat_format conv_template prompt_template template
    """,
    'a model of the hub is model_path="hf:owner/repo:Q4_K_M", a token HF_TOKEN in the environment': """
        repo_id hf_repo repo hf_token token url download_dir local_dir hf_model model_url from_pretrained
    """,
    "adapters are not read: merge it into the model and convert that": """
        lora lora_path lora_base lora_adapters adapter lora_request lora_scale adapter_path peft lora_modules
    """,
    "there is no speculative decoding": """
        draft_model model_draft speculative_config num_speculative_tokens draft_n speculative_model
    """,
    "a model stays until `model.unload()`": "keep_alive ttl idle_timeout sleep_idle_seconds",
    "requests share decodes without being asked to, as many as context_opts.n_seq_max": """
        cont_batching continuous_batching
    """,
    "every model embeds, without preparation: model.embed(texts)": "embedding embeddings pooling_type",
    "no preparation is needed: a request gives logprobs": "logits_all",
    "logs go to the logger 'erllama_py' of logging and structlog": """
        verbose log_level logging quiet debug log log_file disable_log_stats log_verbosity
    """,
    "models are loaded by load_model, as many as you say": "max_models models_max max_loaded_models",
    "a server is started by `erllama serve`, or made by create_app": "host port",
    "min_tokens=None saves nothing": "enabled enable disabled",
    "rows have no age: the quota says when they go": "max_age expire",
}
_NUMBERS = {
    "it is a number of bytes, such as 5 << 30": "quota_bytes ram_quota_bytes save_buffer_bytes",
    "-1 is all layers, 0 none": "n_gpu_layers",
    "leave it out for what computes fastest": "n_threads n_threads_batch",
    "it is a number of tokens, 0 for as many as the model was trained with": "n_ctx",
    "it is a number of seconds": "deadline queue_wait",
    "it is a number, the higher the sooner; 0 by default": "priority",
    "it is a number of milliseconds": "session_idle_ms turn_ms evict_save_timeout_ms",
}
WRITTEN = {name: said for said, names in _NUMBERS.items() for name in names.split()}
"""What to write for a number that was given in words."""
INSTEAD = {name: said for said, names in _SAID.items() for name in names.split()}


def plain_name(name: str) -> str:
    """A name as it would be written here: `--ctx-size`, `maxTokens` and `Top_K` in small letters with underscores."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name[:MOST_NAME].lstrip("-")).lower().replace("-", "_")
