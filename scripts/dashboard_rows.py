"""The panels of the dashboard, row by row: what `dashboard` writes. Each series of the operations guide is in one."""

from __future__ import annotations

from dashboard_panels import EVERY, HERE, MODEL, Panel, Query, Row, gauge, of_process, quantiles, rate, ratio, stat

BAD = (1, "red")
REQUESTS = f"sum(rate(erllama_http_requests_total{{{HERE}}}[{EVERY}]))"

OVERVIEW = Row("Overview", (
    stat("Requests", "reqps", REQUESTS, "Requests over HTTP in a second."),
    stat(
        "Errors", "percentunit",
        ratio(f'sum(rate(erllama_http_requests_total{{{HERE}, status=~"5.."}}[{EVERY}]))', REQUESTS),
        "The share of requests that the server answered with a status from 500 on.", (0.001, "orange"), (0.01, "red"),
        nothing="0",
    ),
    stat(
        "Turned away", "percentunit",
        ratio(f'sum(rate(erllama_http_requests_total{{{HERE}, status=~"429|529"}}[{EVERY}]))', REQUESTS),
        "The share of requests for which there was no room.", (0.01, "orange"), (0.05, "red"), nothing="0",
    ),
    stat("First token, p95", "s", quantiles("erllama_time_to_first_token_seconds")[1].expr,
         "What 95 of 100 clients wait at most for the first piece of a reply.", (5, "orange"), (15, "red")),
    stat("Tokens", "none", f"sum(rate(erllama_model_generated_tokens_total{{{MODEL}}}[{EVERY}]))",
         "Tokens of replies in a second, of all models."),
    stat("Reused", "percentunit", ratio(
        f"sum(rate(erllama_model_reused_tokens_total{{{MODEL}}}[{EVERY}]))",
        f"sum(rate(erllama_model_prompt_tokens_total{{{MODEL}}}[{EVERY}]))",
    ), "The share of prompt tokens that were not computed."),
    stat("Open", "none", f"sum(erllama_http_requests_in_progress{{{HERE}}})", "Requests that are open."),
    stat("In trouble", "none", f'sum(erllama_model_phase{{{MODEL}, phase=~"failed|hanging|restarting"}})',
         "Models that crashed or hang.", BAD, nothing="0"),
))  # fmt: skip

TRAFFIC = Row("Traffic", (
    Panel("Requests by route", "reqps", (Query(rate("erllama_http_requests_total", "route", HERE), "{{route}}"),),
          "Requests that are over.", stacked=True),
    Panel("Requests by status", "reqps", (Query(rate("erllama_http_requests_total", "status", HERE), "{{status}}"),),
          "499: the client left. 429 and 529: there was no room.", stacked=True),
    Panel("Requests by API", "reqps", (Query(rate("erllama_http_requests_total", "api", HERE), "{{api}}"),),
          "Whose API they spoke.", stacked=True),
    Panel("Open requests", "none", (
        Query(gauge("erllama_http_requests_in_progress", "route", HERE), "{{route}}"),
        Query(f"sum(erllama_http_requests_limit{{{HERE}}})", "as many as there may be"),
    ), "Streams are among them. The next one beyond the limit gets 429."),
    Panel("How long requests take", "s", quantiles("erllama_http_request_duration_seconds", where=HERE),
          "From a request to its last byte, so long replies count."),
    Panel("Replies by their end", "reqps", (
        Query(rate("erllama_replies_total", "finish_reason"), "{{finish_reason}}"),
    ), "Replies that were sent whole.", stacked=True),
    Panel("Tokens over HTTP", "none", (
        Query(f"sum(rate(erllama_http_prompt_tokens_total{{{MODEL}}}[{EVERY}]))", "prompts"),
        Query(f"sum(rate(erllama_http_cached_tokens_total{{{MODEL}}}[{EVERY}]))", "of these, not computed"),
        Query(f"sum(rate(erllama_http_generated_tokens_total{{{MODEL}}}[{EVERY}]))", "replies"),
    ), "In a second."),
    Panel("Shutting down", "none", (Query(gauge("erllama_http_draining", "instance", HERE), "{{instance}}"),),
          "1 once a server takes no new requests.", thresholds=(BAD,), most=1),
    Panel("Version", "none", (Query(gauge("erllama_build_info", "instance, version", HERE), ""),),
          "What runs.", "table"),
    Panel("Batches", "none", (Query(gauge("erllama_batches_open", "instance", HERE), "{{instance}}, not over"),),
          "They wait for live requests on purpose."),
    Panel("Lines of batches", "ops", (Query(rate("erllama_batch_lines_total", "result", HERE), "{{result}}"),),
          "That are answered.", stacked=True),
    Panel("Streams that can be taken up again", "none", (
        Query(gauge("erllama_http_lasting_streams", "instance", HERE), "{{instance}}"),
    ), "A client that comes back gets the rest."),
    Panel("What is kept of these", "bytes", (
        Query(gauge("erllama_http_lasting_stream_bytes", "instance", HERE), "{{instance}}"),
    ), "In memory, up to a bound."),
    Panel("Streams taken up again", "reqps", (
        Query(rate("erllama_http_streams_resumed_total", "api", HERE), "{{api}}"),
        Query(rate("erllama_http_streams_expired_total", "api", HERE), "{{api}}, never asked for again"),
    ), "After their connection was cut."),
))  # fmt: skip

LATENCY = Row("What clients wait for", (
    Panel("First token", "s", quantiles("erllama_time_to_first_token_seconds"), "From a request to the first piece.",
          thresholds=((15, "red"),)),
    Panel("First token by model, p95", "s", (quantiles("erllama_time_to_first_token_seconds", "model")[1],),
          "A long queue, or long prompts that are computed."),
    Panel("First token, all of them", "s", (
        Query(f"sum by (le) (increase(erllama_time_to_first_token_seconds_bucket{{{MODEL}}}[{EVERY}]))", "{{le}}"),
    ), "How many waited for how long.", "heatmap", least=None),
    Panel("Gaps between tokens", "s", quantiles("erllama_inter_token_seconds"), "As connections get them.",
          thresholds=((1, "red"),)),
    Panel("Gaps by model, p95", "s", (quantiles("erllama_inter_token_seconds", "model")[1],),
          "Many sequences in a decode, or prompts of others between decodes."),
    Panel("Gaps, all of them", "s", (
        Query(f"sum by (le) (increase(erllama_inter_token_seconds_bucket{{{MODEL}}}[{EVERY}]))", "{{le}}"),
    ), "How many were how long.", "heatmap", least=None),
))  # fmt: skip

MODELS = Row("Models", (
    Panel("What models do", "none", (
        Query(f"max by (instance, model, phase) (erllama_model_phase{{{MODEL}}})", ""),
    ), "The phase of each now.", "table"),
    Panel("Tokens of replies", "none", (Query(rate("erllama_model_generated_tokens_total", "model"), "{{model}}"),),
          "In a second, as they are drawn.", stacked=True),
    Panel("Tokens of prompts", "none", (
        Query(f"sum(rate(erllama_model_computed_tokens_total{{{MODEL}}}[{EVERY}]))", "computed"),
        Query(f"sum(rate(erllama_model_reused_tokens_total{{{MODEL}}}[{EVERY}]))", "reused"),
    ), "In a second.", stacked=True),
    Panel("Requests", "reqps", (Query(rate("erllama_model_requests_total", "model"), "{{model}}"),),
          "From everywhere, not over HTTP alone.", stacked=True),
    Panel("How requests end", "reqps", (
        Query(rate("erllama_model_requests_finished_total", "finish_reason"), "{{finish_reason}}"),
        Query(f"sum(rate(erllama_model_requests_failed_total{{{MODEL}}}[{EVERY}]))", "failed"),
        Query(f"sum(rate(erllama_model_requests_refused_total{{{MODEL}}}[{EVERY}]))", "refused"),
        Query(f"sum(rate(erllama_model_requests_continued_total{{{MODEL}}}[{EVERY}]))", "went on after a crash"),
    ), "Refused: the queue was full, or the session busy. One that went on has not ended.", stacked=True),
    Panel("Tokens in a decode", "none", (
        Query(ratio(rate("erllama_model_tick_tokens_total", "model"), rate("erllama_model_ticks_total", "model")),
              "{{model}}"),
    ), "How many tokens share one."),
    Panel("Time in decodes", "percentunit", (Query(rate("erllama_model_tick_seconds_total", "model"), "{{model}}"),),
          "The share of the time; near 1 the model is busy without a pause."),
    Panel("Embeddings", "reqps", (
        Query(rate("erllama_model_embeddings_total", "model"), "{{model}}"),
        Query(rate("erllama_model_embeddings_failed_total", "model"), "{{model}}, failed"),
    ), "Calls of embed and rerank."),
    Panel("Tokens of embeddings", "none", (Query(rate("erllama_model_embedding_tokens_total", "model"), "{{model}}"),),
          "In a second."),
))  # fmt: skip

DEMAND = Row("Models on demand", (
    Panel("Where models stand", "none", (
        Query(f"max by (instance, model, state) (erllama_served_model{{{MODEL}}})", ""),
    ), "Each, loaded or not.", "table"),
    Panel("Requests and models", "none", (
        Query(gauge("erllama_served_model_requests", "model"), "{{model}}, have it"),
        Query(gauge("erllama_served_model_requests_waiting", "model"), "{{model}}, wait until it is loaded"),
    ), "Requests over HTTP."),
    Panel("Loads and unloads", "none", (
        Query(f"sum by (model, result) (increase(erllama_served_model_loads_total{{{MODEL}}}[{EVERY}])) > 0",
              "{{model}}, {{result}}"),
        Query(f"sum by (model, why) (increase(erllama_served_model_unloads_total{{{MODEL}}}[{EVERY}])) > 0",
              "{{model}}, unloaded: {{why}}"),
    ), "memory: a swap, for another model."),
    Panel("The budget of memory", "bytes", (
        Query(gauge("erllama_memory_models_bytes", "instance", HERE), "{{instance}}, models"),
        Query(gauge("erllama_memory_reserved_bytes", "instance", HERE), "{{instance}}, tiers and buffers"),
        Query(gauge("erllama_memory_budget_bytes", "instance", HERE), "{{instance}}, the budget"),
    ), "No budget: models are not on demand."),
    Panel("What models take of it", "bytes", (Query(gauge("erllama_served_model_bytes", "model"), "{{model}}"),),
          "While they are loaded, as it is estimated.", stacked=True),
))  # fmt: skip

QUEUE = Row("Queue, sequences and KV cells", (
    Panel("Queue", "none", (
        Query(gauge("erllama_model_requests_waiting", "model"), "{{model}}, waiting"),
        Query(gauge("erllama_model_requests_parked", "model"), "{{model}}, parked"),
    ), "Requests that have not begun, and those whose cells others have meanwhile."),
    Panel("At work", "none", (
        Query(gauge("erllama_model_requests_active", "model"), "{{model}}"),
        Query(gauge("erllama_model_embeddings_open", "model"), "{{model}}, embeddings"),
    ), "Requests that have a sequence.", stacked=True),
    Panel("Parks", "ops", (Query(rate("erllama_model_parks_total", "model"), "{{model}}"),),
          "Requests taken out of their cells for others; many mean too few cells."),
    Panel("Sequences", "none", (
        Query(gauge("erllama_model_sequences", "model"), "{{model}}"),
        Query(gauge("erllama_model_sequences_kept", "model"), "{{model}}, kept for a next turn"),
    ), "That contexts have."),
    Panel("KV cells", "none", (
        Query(gauge("erllama_model_kv_cells", "model"), "{{model}}, in total"),
        Query(gauge("erllama_model_kv_cells_in_use", "model"), "{{model}}, in use"),
        Query(gauge("erllama_model_kv_cells_kept", "model"), "{{model}}, kept for a next turn"),
    ), "A cell holds a token."),
    Panel("KV cells in use", "percentunit", (
        Query(ratio(gauge("erllama_model_kv_cells_in_use", "model"), gauge("erllama_model_kv_cells", "model")),
              "{{model}}"),
    ), "At the top all day, with parks: there are too few.", thresholds=((0.95, "orange"),), most=1),
))  # fmt: skip

CACHE = Row("What the cache saves", (
    Panel("Prompt tokens that were reused", "percentunit", (
        Query(ratio(rate("erllama_model_reused_tokens_total", "model"),
                    rate("erllama_model_prompt_tokens_total", "model")), "{{model}}"),
    ), "Of those of finished requests.", most=1),
    Panel("What requests began with", "reqps", (Query(rate("erllama_model_hits_total", "kind"), "{{kind}}"),),
          "cold: nothing.", stacked=True),
    Panel("Hits", "reqps", (Query(rate("erllama_cache_hits_total", "kind", HERE), "{{kind}}"),),
          "As the cache counts them.", stacked=True),
    Panel("Hits by tier", "reqps", (Query(rate("erllama_cache_tier_hits_total", "tier", HERE), "{{tier}}"),),
          "Where their last row lay.", stacked=True),
    Panel("Misses by reason", "reqps", (Query(rate("erllama_cache_misses_total", "reason", HERE), "{{reason}}"),),
          "Requests that began with nothing.", stacked=True),
    Panel("Conversations", "reqps", (Query(rate("erllama_cache_turns_total", "result", HERE), "{{result}}"),),
          "Those with replies, by whether one was recognised.", stacked=True),
    Panel("Put back into cells", "Bps", (
        Query(f"sum(rate(erllama_cache_restored_bytes_total{{{HERE}}}[{EVERY}]))", "by the cache"),
        Query(rate("erllama_model_restored_bytes_total", "model"), "{{model}}"),
    ), "Bytes of rows."),
    Panel("Rows and tokens put back", "ops", (
        Query(f"sum(rate(erllama_cache_restored_rows_total{{{HERE}}}[{EVERY}]))", "rows"),
        Query(f"sum(rate(erllama_cache_restored_tokens_total{{{HERE}}}[{EVERY}]))", "tokens"),
    ), "In a second."),
    Panel("Time of the cache's work", "percentunit", (
        Query(rate("erllama_cache_work_seconds_total", "work", HERE), "{{work}}"),
    ), "The share of the time."),
))  # fmt: skip

SAVES = Row("What is saved", (
    Panel("Rows saved", "ops", (Query(rate("erllama_cache_saved_rows_total", "reason", HERE), "{{reason}}"),),
          "By what for; duplicate: they were there.", stacked=True),
    Panel("Bytes saved", "Bps", (
        Query(rate("erllama_cache_saved_bytes_total", "tier", HERE), "{{tier}}"),
        Query(rate("erllama_model_saved_bytes_total", "model"), "{{model}}, copied out"),
    ), "In a second."),
    Panel("Rows that were not saved", "ops", (
        Query(rate("erllama_cache_dropped_rows_total", "reason", HERE), "{{reason}}"),
        Query(f"sum(rate(erllama_model_skipped_rows_total{{{MODEL}}}[{EVERY}]))", "not copied out"),
        Query(f"sum(rate(erllama_model_lost_rows_total{{{MODEL}}}[{EVERY}]))", "copied out and not stored"),
    ), "By why.", stacked=True),
    Panel("Rows copied out", "ops", (Query(rate("erllama_model_saved_rows_total", "model"), "{{model}}"),),
          "By models.", stacked=True),
    Panel("Rows kept for a time", "ops", (Query(rate("erllama_cache_kept_rows_total", "result", HERE), "{{result}}"),),
          "As requests asked for.", stacked=True),
    Panel("Damaged and healed rows", "none", (
        Query(f"sum by (kind) (increase(erllama_cache_bad_rows_total{{{HERE}}}[{EVERY}]))", "{{kind}}"),
        Query(f"sum by (kind) (increase(erllama_cache_healed_rows_total{{{HERE}}}[{EVERY}]))", "{{kind}}, healed"),
    ), "Damaged or lost rows are computed again.", thresholds=(BAD,)),
))  # fmt: skip

TIERS = Row("Tiers", (
    Panel("Room in tiers", "percentunit", (
        Query(ratio(gauge("erllama_tier_used_bytes", "instance, tier", HERE),
                    gauge("erllama_tier_quota_bytes", "instance, tier", HERE)), "{{tier}}, {{instance}}"),
    ), "Full is normal: rows that are of least use go first.", most=1),
    Panel("Bytes in tiers", "bytes", (
        Query(gauge("erllama_tier_used_bytes", "tier", HERE), "{{tier}}"),
        Query(gauge("erllama_tier_quota_bytes", "tier", HERE), "{{tier}}, as many as there may be"),
    ), "What rows take."),
    Panel("Rows in tiers", "none", (Query(gauge("erllama_tier_rows", "tier", HERE), "{{tier}}"),),
          "How many there are."),
    Panel("Rows evicted and replaced", "ops", (
        Query(rate("erllama_cache_evicted_rows_total", "tier", HERE), "{{tier}}, evicted"),
        Query(rate("erllama_cache_replaced_rows_total", "tier", HERE), "{{tier}}, replaced by a later one"),
    ), "Many evicted ones beside many misses: the quota is too small."),
    Panel("Bytes evicted", "Bps", (Query(rate("erllama_cache_evicted_bytes_total", "tier", HERE), "{{tier}}"),),
          "In a second."),
    Panel("Tiers that are ready", "none", (
        Query(f"min by (instance, tier) (erllama_tier_writable{{{HERE}}})", "{{tier}}, {{instance}}, can be written"),
        Query(f"min by (instance, tier) (erllama_tier_opened_ratio{{{HERE}}})", "{{tier}}, {{instance}}, scanned"),
    ), "1: all is well.", most=1),
))  # fmt: skip

SUPERVISION = Row("Crashes and restarts", (
    Panel("Restarts", "none", (
        Query(f"sum by (child) (increase(erllama_supervised_restarts_total{{{HERE}}}[{EVERY}])) > 0", "{{child}}"),
        Query(f"sum by (model) (increase(erllama_model_restarts_total{{{MODEL}}}[{EVERY}])) > 0", "{{model}}, crashed"),
    ), "Of each part of the supervision tree.", thresholds=(BAD,)),
    Panel("Parts that do not run", "none", (
        Query(f"min by (instance, supervisor, child) (erllama_supervised_up{{{HERE}}}) == 0", ""),
    ), "Empty where all do.", "table"),
    Panel("The cache", "none", (Query(gauge("erllama_cache_up", "instance", HERE), "{{instance}}"),),
          "0 while it restarts; its counters begin at 0 then.", most=1),
    Panel("Models that are loaded", "none", (Query(gauge("erllama_models_loaded", "instance", HERE), "{{instance}}"),),
          "Crashed ones are among them."),
    Panel("Loads", "none", (
        Query(f"sum by (model) (increase(erllama_model_loads_total{{{MODEL}}}[{EVERY}])) > 0", "{{model}}"),
    ), "Those after a crash are among them."),
    Panel("How long loads take", "s", (
        Query(ratio(rate("erllama_model_load_seconds_total", "model"), rate("erllama_model_loads_total", "model")),
              "{{model}}"),
    ), "On average."),
))  # fmt: skip

PROCESS = Row("Memory and process", (
    Panel("Memory of models", "bytes", (
        Query(gauge("erllama_model_memory_bytes", "model"), "{{model}}"),
        Query(gauge("erllama_model_weights_bytes", "model"), "{{model}}, weights alone"),
    ), "Weights and KV cells, as they are estimated."),
    Panel("Memory of the machine", "bytes", (
        Query(gauge("erllama_pressure_used_bytes", "instance", HERE), "{{instance}}, in use"),
        Query(gauge("erllama_pressure_total_bytes", "instance", HERE), "{{instance}}, in total"),
    ), "As the pressure monitor reads it; nothing where it is off."),
    Panel("Evictions because memory was short", "none", (
        Query(f"sum by (instance) (increase(erllama_pressure_evictions_total{{{HERE}}}[{EVERY}]))", "{{instance}}"),
        Query(f"sum by (instance) (increase(erllama_pressure_evicted_bytes_total{{{HERE}}}[{EVERY}]))",
              "{{instance}}, bytes"),
    ), "By the pressure monitor."),
    Panel("Memory of the process", "bytes", (
        Query(of_process(f"sum by (instance) (process_resident_memory_bytes{{{HERE}}})"), "{{instance}}"),
    ), "Mapped weights are among it."),
    Panel("CPUs", "none", (
        Query(of_process(f"sum by (instance) (rate(process_cpu_seconds_total{{{HERE}}}[{EVERY}]))"), "{{instance}}"),
    ), "How many are busy with it."),
    Panel("Open files", "percentunit", (
        Query(of_process(f"max by (instance) (process_open_fds{{{HERE}}} / process_max_fds{{{HERE}}})"),
              "{{instance}}"),
    ), "The share of those that the process may have; each open stream is one.", thresholds=((0.8, "red"),), most=1),
))  # fmt: skip

ROWS = (OVERVIEW, TRAFFIC, LATENCY, MODELS, DEMAND, QUEUE, CACHE, SAVES, TIERS, SUPERVISION, PROCESS)
