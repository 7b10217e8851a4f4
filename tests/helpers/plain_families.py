"""Templates of `families` that show no tools, or only in one place; and what vocabularies read as one token."""

from __future__ import annotations

CHATML = """
{%- for m in messages -%}
<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor -%}
{% if add_generation_prompt %}<|im_start|>assistant
{% endif -%}"""

LLAMA2 = """
{%- if messages[0].role == 'system' %}
    {%- set turns = messages[1:] %}{%- set system = '<<SYS>>\\n' ~ messages[0].content ~ '\\n<</SYS>>\\n\\n' %}
{%- else %}{%- set turns = messages %}{%- set system = '' %}{%- endif %}
{%- for m in turns %}
    {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{%- endif %}
    {%- if m.role == 'user' %}
        {{- bos_token ~ '[INST] ' ~ (system if loop.first else '') ~ m.content.strip() ~ ' [/INST]' }}
    {%- else %}{{- ' ' ~ m.content.strip() ~ ' ' ~ eos_token }}{%- endif %}
{%- endfor %}"""

MISTRAL1 = """
{{- bos_token }}
{%- for m in messages %}
    {%- if m.role == 'user' %}{{- '[INST] ' + m.content + ' [/INST]' }}
    {%- elif m.role == 'assistant' %}{{- m.content + eos_token }}
    {%- else %}{{- raise_exception('Only user and assistant roles are supported!') }}{%- endif %}
{%- endfor %}"""

PHI3 = """
{%- for m in messages %}{{- '<|' + m['role'] + '|>\\n' + m['content'] + '<|end|>\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{%- else %}{{- eos_token }}{%- endif %}"""

PHI4 = """
{%- for m in messages %}
    {%- if m.role == 'system' and tools %}
        {{- '<|' + m.role + '|>' + m.content + '<|tool|>' + (tools | tojson) + '<|/tool|><|end|>' }}
    {%- else %}{{- '<|' + m.role + '|>' + m.content + '<|end|>' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"""

COMMAND_R = """
{{- bos_token }}
{%- for m in messages %}
    {%- set content = m.content %}
    {%- if m.role == 'system' %}{{- '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' ~ content ~ '<|END_OF_TURN_TOKEN|>' }}
    {%- elif m.role == 'user' %}
        {{- '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + content.strip() + '<|END_OF_TURN_TOKEN|>' }}
    {%- elif m.role == 'assistant' %}
        {{- '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' + content.strip() + '<|END_OF_TURN_TOKEN|>' }}
    {%- endif %}
{%- endfor %}
{%- if documents %}
    {%- for d in documents %}{{- '<result>' }}{%- for k, v in d.items() %}{{- k | title ~ ': ' ~ v ~ '\\n' }}
        {%- endfor %}{{- '</result>' }}{%- endfor %}
{%- endif %}
{%- if add_generation_prompt %}{{- '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{%- endif %}"""

ZEPHYR = """
{%- for m in messages %}
{%- if m['role'] == 'user' %}
{{ '<|user|>\\n' + m['content'] + eos_token }}
{%- elif m['role'] == 'system' %}
{{ '<|system|>\\n' + m['content'] + eos_token }}
{%- elif m['role'] == 'assistant' %}
{{ '<|assistant|>\\n' + m['content'] + eos_token }}
{%- endif %}
{%- if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{%- endif %}
{%- endfor %}"""

VICUNA = """
{%- for m in messages %}
    {%- if m.role == 'system' %}{{- m.content + ' ' }}
    {%- elif m.role == 'user' %}{{- 'USER: ' + m.content | trim + ' ' }}
    {%- else %}{{- 'ASSISTANT: ' + m.content | trim + eos_token }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- 'ASSISTANT:' }}{%- endif %}"""

PARTS_ONLY = """
{%- for m in messages %}
    {{- '<|im_start|>' + m.role + '\\n' }}{%- for part in m.content %}{{- part.text }}{%- endfor %}
        {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

SMOLLM3 = """
{%- if enable_thinking is not defined %}{%- set enable_thinking = true %}{%- endif %}
{%- if messages[0].role == 'system' %}
    {%- set system = messages[0].content %}
    {%- if '/no_think' in system %}{%- set enable_thinking = false %}{%- endif %}
    {%- set said = system.replace('/no_think', '').replace('/think', '').rstrip() %}
{%- endif %}
{{- '<|im_start|>system\\nMode: ' ~ ('/think' if enable_thinking else '/no_think') }}
    {{- '\\n' ~ (said | default('')) ~ '<|im_end|>\\n' }}
{%- for m in messages %}
    {%- set content = m.content if m.content is string else '' %}
    {%- if m.role == 'user' %}{{- '<|im_start|>user\\n' + content + '<|im_end|>\\n' }}
    {%- elif m.role == 'assistant' %}
        {% generation %}{{- '<|im_start|>assistant\\n' + content.lstrip('\\n') + '<|im_end|>\\n' }}{% endgeneration %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' ~ ('' if enable_thinking else '<think>\\n\\n</think>\\n') }}
{%- endif %}"""

# What vocabularies of these families read as control tokens, and as tokens that are seen.
CONTROL = (
    "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eot_id|>",
    "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]",
    "<start_of_turn>", "<end_of_turn>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|tool|>", "<|/tool|>",
    "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>",
    "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|start_of_role|>", "<|end_of_role|>",
    "<|end_of_text|>",
    "<|tool_call|>", "<|start|>", "<|message|>", "<|channel|>", "<|call|>", "<|observation|>", "[gMASK]", "<sop>",
    "<|tool_list_start|>", "<|tool_list_end|>", "<|tool_response_start|>", "<|tool_response_end|>",
)  # fmt: skip
USER_DEFINED = (
    "<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<arg_key>",
    "</arg_key>",
    "<arg_value>", "</arg_value>", "  ", "\n\n",
)  # fmt: skip
