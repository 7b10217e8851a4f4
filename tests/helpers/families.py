"""Small chat templates, each in the manner of a public model family: what is special in how it writes turns.

They are written anew, and show what matters: how turns are framed, whether texts are trimmed, where tools, calls and
results stand, and what becomes of old thoughts.
"""

from __future__ import annotations

from helpers.plain_families import (
    CHATML,
    COMMAND_R,
    LLAMA2,
    MISTRAL1,
    PHI3,
    PHI4,
    SMOLLM3,
    VICUNA,
    ZEPHYR,
)

QWEN25 = """
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n' }}{% endif %}
    {{- '<tools>' }}{%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}{{- '\\n</tools><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for m in messages %}
    {%- set said = m.role == 'assistant' and not m.tool_calls %}
    {%- if m.role == 'user' or (m.role == 'system' and not loop.first) or said %}
        {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + '\\n' }}
    {%- elif m.role == 'assistant' %}
        {{- '<|im_start|>' + m.role }}
        {%- if m.content %}{{- '\\n' + m.content }}{%- endif %}
        {%- for call in m.tool_calls %}
            {%- if call.function is defined %}{%- set call = call.function %}{%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' + call.name + '", "arguments": ' + (call.arguments | tojson) }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif m.role == 'tool' %}
        {%- if loop.index0 == 0 or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' + m.content + '\\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

QWEN3 = """
{%- if tools %}{{- '<|im_start|>system\\n' + (tools | tojson(indent=2)) + '<|im_end|>\\n' }}{%- endif %}
{%- set ns = namespace(last=messages | length - 1, seeking=true) %}
{%- for m in messages[::-1] %}
    {%- if ns.seeking and m.role == 'user' and not m.content.startswith('<tool_response>') %}
        {%- set ns.seeking = false %}{%- set ns.last = messages | length - 1 - loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for m in messages %}
    {%- set content = m.content if m.content is string else '' %}
    {%- if m.role == 'assistant' %}
        {%- set thought = '' %}
        {%- if m.reasoning_content is string %}{%- set thought = m.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > ns.last %}{{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}{%- endif %}
        {{- content.lstrip('\\n') }}
        {%- for call in m.tool_calls %}
            {{- '<tool_call>\\n' }}{{- call.function | tojson }}{{- '\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif m.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + content + '\\n</tool_response><|im_end|>\\n' }}
    {%- else %}{{- '<|im_start|>' + m.role + '\\n' + content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""

LLAMA31 = """
{{- bos_token }}
{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if messages[0].role == 'system' %}
    {%- set system = messages[0].content | trim %}{%- set turns = messages[1:] %}
{%- else %}{%- set system = '' %}{%- set turns = messages %}{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
{%- if tools is not none %}
    {{- 'Functions:\\n\\n' }}{%- for t in tools %}{{- t | tojson(indent=4) }}{{- '\\n\\n' }}{%- endfor %}
{%- endif %}
{{- system }}{{- '<|eot_id|>' }}
{%- for m in turns %}
    {%- if not (m.role == 'tool' or m.role == 'ipython' or 'tool_calls' in m) %}
        {{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in m %}
        {%- if not m.tool_calls | length == 1 %}{{- raise_exception('One call at a time') }}{%- endif %}
        {%- set call = m.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson }}{{- '}<|eot_id|>' }}
    {%- else %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' }}
        {%- if m.content is mapping or m.content is iterable and m.content is not string %}{{- m.content | tojson }}
        {%- else %}{{- m.content }}{%- endif %}
        {{- '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"""

MISTRAL3 = """
{%- if messages[0].role == 'system' %}{%- set system = messages[0].content %}{%- set turns = messages[1:] %}
{%- else %}{%- set turns = messages %}{%- endif %}
{%- set users = turns | selectattr('role', 'equalto', 'user') | list %}
{{- bos_token }}
{%- for m in turns %}
    {%- if m.role == 'user' %}
        {%- if tools is not none and m == users[-1] %}
            {{- '[AVAILABLE_TOOLS] [' }}
            {%- for tool in tools %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, value in tool.function.items() if key != 'return' %}
                    {%- if value is string %}{{- '"' + key + '": "' + value + '"' }}
                    {%- else %}{{- '"' + key + '": ' + value | tojson }}{%- endif %}
                    {%- if not loop.last %}{{- ', ' }}{%- endif %}
                {%- endfor %}
                {{- '}}' }}{%- if not loop.last %}{{- ', ' }}{%- endif %}
            {%- endfor %}
            {{- '][/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {%- if loop.last and system is defined %}{{- '[INST] ' + system + '\\n\\n' + m.content + '[/INST]' }}
        {%- else %}{{- '[INST] ' + m.content + '[/INST]' }}{%- endif %}
    {%- elif m.tool_calls is defined and m.tool_calls is not none %}
        {{- '[TOOL_CALLS] [' }}
        {%- for call in m.tool_calls %}
            {%- set out = call.function | tojson %}{{- out[:-1] }}
            {%- if call.id is not defined or call.id | length != 9 %}
                {{- raise_exception('ids have 9 letters') }}{%- endif %}
            {{- ', "id": "' + call.id + '"}' }}{%- if not loop.last %}{{- ', ' }}{%- else %}
                {{- ']' + eos_token }}{%- endif %}
        {%- endfor %}
    {%- elif m.role == 'assistant' %}{{- ' ' + m.content | trim + eos_token }}
    {%- else %}{{- '[TOOL_RESULTS] {"content": ' + m.content | string + '}[/TOOL_RESULTS]' }}{%- endif %}
{%- endfor %}"""

GEMMA = """
{{- bos_token }}
{%- if messages[0].role == 'system' %}
    {%- set first = messages[0].content + '\\n\\n' if messages[0].content is string else messages[0].content[0].text %}
    {%- set turns = messages[1:] %}
{%- else %}{%- set first = '' %}{%- set turns = messages %}{%- endif %}
{%- for m in turns %}
    {%- set role = 'model' if m.role == 'assistant' else m.role %}
    {{- '<start_of_turn>' + role + '\\n' + (first if loop.first else '') }}
    {%- if m.content is string %}{{- m.content | trim }}
    {%- elif m.content is iterable %}{%- for part in m.content %}{{- part.text | trim }}{%- endfor %}
    {%- else %}{{- raise_exception('Invalid content type') }}{%- endif %}
    {{- '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{%- endif %}"""

DEEPSEEK = """
{%- set ns = namespace(system='') %}
{%- for m in messages if m.role == 'system' %}{%- set ns.system = ns.system + m.content %}{%- endfor %}
{{- bos_token }}{{- ns.system }}
{%- for m in messages %}
    {%- if m.role == 'user' %}{{- '<｜User｜>' + m.content }}
    {%- elif m.role == 'assistant' %}
        {%- set content = m.content or '' %}
        {%- if '</think>' in content %}{%- set content = content.split('</think>')[-1] %}{%- endif %}
        {{- '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<｜Assistant｜><think>\\n' }}{%- endif %}"""

GRANITE = """
{%- if tools %}
    {{- '<|start_of_role|>available_tools<|end_of_role|>\\n' }}
    {%- for tool in tools %}{{- tool | tojson(indent=4) }}{%- if not loop.last %}{{- '\\n\\n' }}{%- endif %}
        {%- endfor %}
    {{- '<|end_of_text|>\\n' }}
{%- endif %}
{%- for m in messages %}
    {%- if m.role == 'tool' %}{{- '<|start_of_role|>tool_response<|end_of_role|>' + m.content + '<|end_of_text|>\\n' }}
    {%- else %}
        {{- '<|start_of_role|>' + m.role + '<|end_of_role|>' + (m.content or '') }}
        {%- if m.tool_calls %}{{- '<|tool_call|>' + m.tool_calls | map(attribute='function') | list | tojson }}
            {%- endif %}
        {{- '<|end_of_text|>\\n' }}
    {%- endif %}
    {%- if loop.last and add_generation_prompt %}{{- '<|start_of_role|>assistant<|end_of_role|>' }}{%- endif %}
{%- endfor %}"""

HERMES = """
{%- macro kind(p) %}
    {%- set names = {'string': 'str', 'integer': 'int', 'boolean': 'bool'} %}
    {%- if names[p.type] is defined %}{{- names[p.type] }}{%- else %}{{- 'Any' }}{%- endif %}
{%- endmacro %}
{%- if tools %}
    {{- '<|im_start|>system\\n<tools>' }}
    {%- for tool in tools %}
        {%- set f = tool.function if tool.function else tool %}
        {{- '\\n' + f.name + '(' }}
        {%- for name, p in f.parameters.properties | items %}
            {{- name + ': ' + kind(p) }}{%- if not loop.last %}{{- ', ' }}{%- endif %}
        {%- endfor %}
        {{- ') ' + f | tojson }}
    {%- endfor %}
    {{- '</tools><|im_end|>\\n' }}
{%- endif %}
{%- for m in messages %}
    {{- '<|im_start|>' + m.role + '\\n' }}
    {%- if m.role == 'tool' %}{{- '<tool_response>\\n' + m.content + '\\n</tool_response>' }}
    {%- else %}{{- m.content if m.content else '' }}{%- endif %}
    {%- for call in m.tool_calls %}
        {{- '\\n<tool_call>\\n{"arguments": ' + call.function.arguments | tojson + ', "name": "' }}
        {{- call.function.name + '"}\\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

FUNCTIONARY = """
{%- for m in messages %}
    {%- if m.role == 'system' or m.role == 'user' %}
        {{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content + '<|eot_id|>' }}
    {%- elif m.role == 'tool' %}{{- '<|start_header_id|>tool<|end_header_id|>\\n\\n' + m.content + '<|eot_id|>' }}
    {%- else %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' + (m.content or '') }}
        {%- for call in m.tool_calls %}
            {{- '>>>' + call.function.name + '\\n' + call.function.arguments | tojson }}
        {%- endfor %}
        {{- '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if tools %}{{- 'namespace {' }}{%- for t in tools %}{{- t.function.name }};{%- endfor %}{{- '}' }}{%- endif %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n>>>' }}{%- endif %}"""

HARMONY = """
{%- set effort = reasoning_effort if reasoning_effort is defined else 'medium' %}
{{- '<|start|>system<|message|>Reasoning: ' + effort + '\\nToday: ' + strftime_now('%Y-%m') + '<|end|>' }}
{%- if tools %}
    {{- '<|start|>developer<|message|># Tools\\n' }}
    {%- for t in tools %}{{- 'type ' + t.function.name + ' = ' + t.function.parameters | tojson + ';\\n' }}{%- endfor %}
    {{- '<|end|>' }}
{%- endif %}
{%- for m in messages %}
    {%- if m.role == 'assistant' %}
        {%- if '<|channel|>' in m.content %}{{- raise_exception('put the thinking into its own field') }}{%- endif %}
        {%- if m.thinking is defined %}
            {{- '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}{%- endif %}
        {%- if m.tool_calls %}
            {%- set call = m.tool_calls[0].function %}
            {{- '<|start|>assistant to=functions.' + call.name + '<|channel|>commentary json<|message|>' }}
            {{- call.arguments | tojson }}{{- '<|call|>' }}
        {%- else %}{{- '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|end|>' }}{%- endif %}
    {%- elif m.role == 'tool' %}
        {{- '<|start|>functions.x to=assistant<|channel|>commentary<|message|>' + m.content | tojson + '<|end|>' }}
    {%- else %}{{- '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{%- endif %}"""

GLM = """[gMASK]<sop>
{%- if tools %}{{- '<|system|>\\n' }}{%- for t in tools %}{{- t | tojson(ensure_ascii=False) }}{%- endfor %}{%- endif %}
{%- macro visible(content) -%}
    {%- if content is string -%}{{- content }}
    {%- elif content is iterable and content is not mapping -%}
        {%- for item in content -%}
            {%- if item is mapping and item.type == 'text' -%}{{- item.text }}
            {%- elif item is string -%}{{- item }}{%- endif -%}
        {%- endfor -%}
    {%- else -%}{{- content }}{%- endif -%}
{%- endmacro -%}
{%- for m in messages %}
    {%- if m.role == 'assistant' %}
        {{- '<|assistant|>\\n' }}
        {%- if m.reasoning_content is string %}{{- '<think>' + m.reasoning_content.strip() + '</think>\\n' }}
            {%- endif %}
        {{- visible(m.content).strip() }}
        {%- for call in m.tool_calls %}
            {%- set f = call.function %}{{- '\\n<tool_call>' + f.name }}
            {%- for k, v in f.arguments.items() %}
                {{- '\\n<arg_key>' + k + '</arg_key>\\n<arg_value>' }}
                {{- v | tojson(ensure_ascii=False) if v is not string else v }}{{- '</arg_value>' }}
            {%- endfor %}
            {{- '\\n</tool_call>' }}
        {%- endfor %}
    {%- elif m.role == 'tool' %}{{- '<|observation|>\\n<tool_response>\\n' + m.content + '\\n</tool_response>' }}
    {%- else %}{{- '<|' + m.role + '|>\\n' }}{{- visible(m.content) }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"""

LFM2 = """
{{- bos_token }}
{%- set ns = namespace(system='') %}
{%- if messages[0].role == 'system' %}
    {%- set ns.system = messages[0].content %}{%- set messages = messages[1:] %}
{%- endif %}
{%- if tools %}
    {%- set ns.system = ns.system + ('\\n' if ns.system else '') + 'List of tools: <|tool_list_start|>[' %}
    {%- for tool in tools %}
        {%- set ns.system = ns.system + (tool if tool is string else tool | tojson) + (', ' if not loop.last else '') %}
    {%- endfor %}
    {%- set ns.system = ns.system + ']<|tool_list_end|>' %}
{%- endif %}
{%- if ns.system %}{{- '<|im_start|>system\\n' + ns.system + '<|im_end|>\\n' }}{%- endif %}
{%- for m in messages %}
    {%- set content = m.content if m.content is string else m.content | tojson if m.content else '' %}
    {%- if m.role == 'tool' %}{%- set content = '<|tool_response_start|>' + content + '<|tool_response_end|>' %}
        {%- endif %}
    {{- '<|im_start|>' + m.role + '\\n' + content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

FAMILIES = {
    "chatml": CHATML, "qwen2.5": QWEN25, "qwen3": QWEN3, "llama2": LLAMA2, "llama3.1": LLAMA31, "mistral1": MISTRAL1,
    "mistral3": MISTRAL3, "gemma": GEMMA, "phi3": PHI3, "phi4": PHI4, "deepseek": DEEPSEEK, "command-r": COMMAND_R,
    "granite": GRANITE, "hermes": HERMES, "functionary": FUNCTIONARY, "harmony": HARMONY, "glm": GLM, "lfm2": LFM2,
    "smollm3": SMOLLM3, "zephyr": ZEPHYR, "vicuna": VICUNA,
}  # fmt: skip
WITH_TOOLS = (
    "qwen2.5", "qwen3", "llama3.1", "mistral3", "phi4", "granite", "hermes", "functionary", "harmony", "glm", "lfm2",
)  # fmt: skip
