"""The HTTP requests that are recorded, and their answers."""

from __future__ import annotations

import json
from typing import Any

from serving import CONTEXT_TOKENS, PUBLIC_MODEL, Server, events, exchange

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
TOKENIZE = "/tokenize"

HI = [{"role": "user", "content": "Hi"}]
LONG = [
    {"role": "system", "content": "You are a gardener. " + "You water every plant daily. " * 16},
    {"role": "user", "content": "Which plant is yours?"},
]
USAGE = {"stream": True, "stream_options": {"include_usage": True}}
EVERY_USAGE = {
    "stream": True,
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
}
IDS = {"return_token_ids": True}
PROMPT_IDS = [504, 3575, 282, 4649, 314]

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "days": {"enum": [1, 2]}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather of a city",
            "parameters": PARAMETERS,
        },
    }
]
STRICT_TOOLS = [{"type": "function", "function": TOOLS[0]["function"] | {"strict": True}}]
NAMED = {"type": "function", "function": {"name": "get_weather"}}
WEATHER = [{"role": "user", "content": "What is the weather in Paris?"}]
CALLED = [
    *WEATHER,
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "get_weather", "arguments": '{"city": "Paris", "days": 1}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
]
CALLED_WITHOUT_CONTENT = [WEATHER[0], CALLED[1] | {"content": None}, CALLED[2]]
PARTS = [
    {
        "role": "user",
        "content": [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}],
    }
]
SCHEMA = {
    "type": "json_schema",
    "json_schema": {"name": "weather", "schema": PARAMETERS, "strict": True},
}


def record(server: Server) -> list[dict[str, Any]]:
    """All exchanges, in the order in which they were made."""
    told = [exchange(server, name, path) for name, path in GETS.items()]
    told += _posted(server, (*POSTS, *SCALED_OUT))
    told += _odd_ones(server)
    told.append(exchange(server, "metrics", "/metrics"))
    told.append(_metrics_of_a_busy_server(server))
    return told


def record_named(server: Server, name: str) -> list[dict[str, Any]]:
    """Those that differ on a server with a served name and ``--enable-scale-out``."""
    told = [exchange(server, "named_models", "/v1/models")]
    asked = {"named_chat": chat(HI, model=name), "named_error_model": chat(HI, model="nothing")}
    return told + _posted(server, ((CHAT, asked), *SCALED_OUT), prefix="scaled_out_")


def _posted(
    server: Server, posts: tuple[tuple[str, dict[str, Any]], ...], *, prefix: str = ""
) -> list[dict[str, Any]]:
    return [
        exchange(server, name if name.startswith("named") else prefix + name, path, body)
        for path, asked in posts
        for name, body in asked.items()
    ]


def chat(messages: list[dict[str, Any]], tokens: int = 6, **more: object) -> dict[str, Any]:
    said = {"model": PUBLIC_MODEL, "messages": messages, "max_tokens": tokens, "temperature": 0}
    return said | more


def completion(prompt: object, tokens: int = 6, **more: object) -> dict[str, Any]:
    return {"model": PUBLIC_MODEL, "prompt": prompt, "max_tokens": tokens, "temperature": 0} | more


def _odd_ones(server: Server) -> list[dict[str, Any]]:
    header = {"X-data-parallel-rank": "3"}
    named = {"X-Request-Id": "asked-by-rhizome"}
    return [
        exchange(server, "error_not_json", CHAT, '{"messages": ['),
        exchange(server, "error_rank", CHAT, chat(HI), headers=header),
        exchange(server, "rank_0", CHAT, chat(HI), headers={"X-data-parallel-rank": "0"}),
        exchange(server, "request_id", CHAT, chat(HI), headers=named),
        exchange(server, "error_method", CHAT, method="GET"),
        exchange(server, "error_path", "/v1/nothing"),
        exchange(server, "error_reset_without_dev_mode", "/reset_prefix_cache", {}),
    ]


def _metrics_of_a_busy_server(server: Server) -> dict[str, Any]:
    connection = server.connect()
    body = {"prompt": [504] * 600, "max_tokens": 200, "ignore_eos": True, "stream": True}
    given = {"content-type": "application/json"}
    connection.request("POST", COMPLETIONS, json.dumps(body), given)
    next(events(connection.getresponse()))
    told = exchange(server, "metrics_busy", "/metrics")
    connection.close()
    return told


GETS = {
    "health": "/health",
    "version": "/version",
    "models": "/v1/models",
    "load": "/load",
    "kv_event_sources": "/kv_event_sources",
}

TOKENIZED = {
    "tokenize": {"messages": HI},
    "tokenize_system": {"messages": LONG},
    "tokenize_tools": {"messages": WEATHER, "tools": TOOLS},
    "tokenize_parts": {"messages": PARTS},
    "tokenize_tool_calls": {"messages": CALLED},
    "tokenize_tool_calls_without_content": {"messages": CALLED_WITHOUT_CONTENT},
    "tokenize_developer": {"messages": [{"role": "developer", "content": "Be brief."}, *HI]},
    "tokenize_without_generation_prompt": {"messages": HI, "add_generation_prompt": False},
    "tokenize_template_kwargs": {
        "messages": HI,
        "chat_template_kwargs": {"add_generation_prompt": False, "enable_thinking": False},
    },
    "tokenize_template": {"messages": HI, "chat_template": "{{ messages[0]['content'] }}"},
    "tokenize_continue": {
        "messages": [*HI, {"role": "assistant", "content": "Hel"}],
        "add_generation_prompt": False,
        "continue_final_message": True,
    },
    "tokenize_strings": {"messages": HI, "return_token_strs": True},
    "tokenize_prompt": {"prompt": "The capital of France is"},
    "tokenize_unknown_model": {"model": "nothing", "prompt": "The"},
}

CHATS = {
    "chat": chat(HI),
    "chat_ids": chat(HI, **IDS),
    "chat_stream": chat(HI, stream=True),
    "chat_stream_usage": chat(HI, **USAGE),
    "chat_stream_every_usage": chat(HI, **EVERY_USAGE),
    "chat_stream_every_usage_alone": chat(
        HI, stream=True, stream_options={"continuous_usage_stats": True}
    ),
    "chat_stream_ids": chat(HI, stream=True, **IDS),
    "chat_stream_ids_usage": chat(HI, **USAGE, **IDS),
    "chat_stream_ids_every_usage": chat(HI, **EVERY_USAGE, **IDS),
    "chat_until_end": chat(HI, 60, **USAGE, **IDS),
    "chat_stop_string": chat(HI, 20, stop=["can"], **USAGE, **IDS),
    "chat_one_token": chat(HI, 1, **USAGE, **IDS),
    "chat_without_model": {"messages": HI, "max_tokens": 2},
    "cached_first": chat(LONG),
    "cached_again": chat(LONG),
    "cached_again_stream": chat(LONG, **USAGE),
    "cached_again_every_usage": chat(LONG, **EVERY_USAGE, **IDS),
    "salt_first": chat(LONG, cache_salt="tenant-a"),
    "salt_again": chat(LONG, cache_salt="tenant-a", **USAGE),
    "salt_other": chat(LONG, cache_salt="tenant-b", **USAGE),
    "n2": chat(HI, n=2, temperature=1, seed=1, **IDS),
    "n2_stream": chat(HI, n=2, temperature=1, seed=1, **USAGE, **IDS),
    "n2_cached": chat(LONG, n=2, temperature=1, seed=1, **USAGE),
    "logprobs": chat(HI, 3, logprobs=True, top_logprobs=2),
    "logprobs_stream": chat(HI, 3, logprobs=True, top_logprobs=2, **USAGE, **IDS),
    "schema": chat(WEATHER, 60, response_format=SCHEMA),
    "schema_stream": chat(WEATHER, 60, response_format=SCHEMA, **USAGE, **IDS),
}

TOOL_CHATS = {
    f"tools_{choice}{strict}{streamed}": chat(
        WEATHER,
        16 if choice in {"auto", "none"} else 80,
        tools=TOOLS if not strict else STRICT_TOOLS,
        tool_choice=NAMED if choice == "named" else choice,
        **(USAGE | IDS if streamed else {}),
    )
    for choice in ("auto", "none", "required", "named")
    for strict in ("", "_strict")
    for streamed in ("", "_stream")
    if choice in {"required", "named"} or not strict
} | {
    "tools_required_strict_stream_without_ids": chat(
        WEATHER, 80, tools=STRICT_TOOLS, tool_choice="required", **USAGE
    ),
    "tool_answer": chat(CALLED, tools=TOOLS),
}

COMPLETED = {
    "completion_text": completion("The capital of France is"),
    "completion_ids": completion(PROMPT_IDS, **IDS),
    "completion_ids_stream": completion(PROMPT_IDS, stream=True, **IDS),
    "completion_ids_usage": completion(PROMPT_IDS, **USAGE, **IDS),
    "completion_ids_every_usage": completion(PROMPT_IDS, **EVERY_USAGE, **IDS),
    "completion_n2": completion([504, 3575], n=2, temperature=1, seed=1, **USAGE, **IDS),
    "completion_two_prompts": completion([[504, 3575], [504]], 2, **USAGE, **IDS),
    "completion_salt": completion([504, 3575] * 33, 2, cache_salt="tenant-a", **USAGE),
    "completion_salt_again": completion([504, 3575] * 33, 2, cache_salt="tenant-a", **USAGE),
    "completion_without_max_tokens": {"prompt": [504, 3575, 282], "temperature": 0} | USAGE,
    "error_completion_empty": completion([]),
    "error_completion_vocabulary": completion([504, 49152]),
    "error_completion_too_long": completion([504] * (CONTEXT_TOKENS + 1)),
}

GENERATED = {"token_ids": PROMPT_IDS, "sampling_params": {"max_tokens": 4, "temperature": 0}}

RENDERED = {"messages": WEATHER, "tools": TOOLS, "cache_salt": "tenant-a", "max_tokens": 4}

SCALED_OUT = (
    (f"{CHAT}/render", {"render": RENDERED}),
    (
        "/inference/v1/generate",
        {"generate": GENERATED, "generate_stream": GENERATED | USAGE},
    ),
)
"""Asked of a server without and of one with ``--enable-scale-out``."""

REFUSED = {
    "error_model": chat(HI, model="nothing"),
    "error_model_stream": chat(HI, model="nothing", stream=True),
    "error_too_long": chat([{"role": "user", "content": "tree " * CONTEXT_TOKENS}]),
    "error_too_long_stream": chat([{"role": "user", "content": "tree " * CONTEXT_TOKENS}], **USAGE),
    "max_tokens_above_context": chat(HI, CONTEXT_TOKENS),
    "error_type_messages": chat([]) | {"messages": "Hi"},
    "error_type_temperature": chat(HI, temperature="hot"),
    "error_range_temperature": chat(HI, temperature=-1),
    "error_range_top_p": chat(HI, top_p=2),
    "error_no_messages": chat([]),
    "role_unknown": chat([{"role": "gardener", "content": "Hi"}]),
    "error_tool_choice": chat(HI, tool_choice="required"),
    "error_empty_salt": chat(HI, cache_salt=""),
    "error_stream_options": chat(HI, stream_options={"include_usage": True}),
    "unknown_field": chat(HI, nonsense=1),
}

POSTS = (
    (TOKENIZE, TOKENIZED),
    ("/detokenize", {"detokenize": {"tokens": PROMPT_IDS}}),
    (CHAT, CHATS),
    (CHAT, TOOL_CHATS),
    (COMPLETIONS, COMPLETED),
    (CHAT, REFUSED),
)
