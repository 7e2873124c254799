"""What each kind of inference server has, as data: paths, names of metrics, fields of a body.

Read from the servers themselves: vLLM 0.32, SGLang 0.5, llama.cpp's server and Ollama of 2026.

Two lists say what of a client's body does not reach a server. *Stripped* fields are taken out: the
client's word is replaced by ours, or the field has no meaning behind an overlay. *Refused* fields
are told to the client by name, because they would reach past its tenant or past the request:

* another cache namespace, slot or session than the tenant's own: ``extra_key``, ``id_slot``,
  ``slot_id``, ``session_id``, ``session_params``, ``ngram_corpus_id``
* another host or worker: ``bootstrap_host``, ``bootstrap_port``, ``bootstrap_room``,
  ``routed_dp_rank``, ``disagg_prefill_dp_rank``, ``data_parallel_rank``
* other requests (their ids, their turn, their metrics): ``rid``, ``request_id``, ``priority``,
  ``custom_labels``, ``keep_alive``
* another model than the one that was asked for: ``lora``, ``lora_path``
* code or tensors that the server would load: ``custom_logit_processor``, ``custom_params``,
  ``logits_processors``, ``vllm_xargs``, ``prompt_embeds``, ``input_embeds``
* a prompt other than the one that was read and hashed: ``input_ids``

Likewise refused in parts of messages: ``image_embeds`` and the like, and ``uuid``, which names
pictures in a cache that all tenants share (``body.py``).

``cache_prompt`` of llama.cpp is passed on: it only makes the request itself slower.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from inference.remote.settings import RemoteKind

STRIPPED = frozenset({"cache_salt", "kv_transfer_params", "ec_transfer_params"})

REFUSED = frozenset(
    {
        *("extra_key", "id_slot", "slot_id", "session_id", "session_params", "ngram_corpus_id"),
        *("bootstrap_host", "bootstrap_port", "bootstrap_room"),
        *("routed_dp_rank", "disagg_prefill_dp_rank", "data_parallel_rank"),
        *("rid", "request_id", "priority", "custom_labels", "keep_alive"),
        *("lora", "lora_path"),
        *("custom_logit_processor", "custom_params", "logits_processors", "vllm_xargs"),
        *("prompt_embeds", "input_embeds", "input_ids"),
    }
)


class TokenizeForm(enum.Enum):
    """How a server is asked for the tokens of a prompt.

    ``VLLM``: one call with ``messages`` or ``prompt``. ``LLAMACPP``: the template and the text are
    two calls.
    """

    VLLM = "vllm"
    LLAMACPP = "llamacpp"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricNames:
    """Samples in ``/metrics``; ``cache_info`` has the cache's size in its labels."""

    running: str
    waiting: str
    cache_usage: str | None = None
    cache_info: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerKind:
    """One kind of server.

    ``health_path`` answers 200 while it works; ``mark_path`` is one that only this kind has, and
    ``owner`` what its models list says under ``owned_by``. ``info_path`` tells slots and the like.
    ``salt_field`` keeps tenants apart in its cache, in every version from ``salts_since`` on (None:
    there is none of which that is known); ``ids_field`` asks for the tokens of an answer, and says
    that a prompt may be given as tokens. ``tells_cached``: it reports ``cached_tokens``; None is
    for what is found out by asking. ``block_tokens`` is its cache's grain where it does not tell.
    ``loads_hub_ids``: what it tells as a model's root may be a hub id, which names its weights.
    ``top_k_all`` is how no limit is asked for: left out, the model's own default would hold.
    """

    kind: RemoteKind
    title: str
    health_path: str
    mark_path: str | None
    owner: str | None
    default_slots: int
    default_context: int = 8192
    block_tokens: int = 16
    loads_hub_ids: bool = False
    info_path: str | None = None
    metrics: MetricNames | None = None
    tokenize: TokenizeForm | None = None
    salt_field: str | None = None
    salts_since: tuple[int, int] | None = None
    ids_field: str | None = None
    tells_cached: bool | None = False
    top_k_all: int = 0


_ALL = (
    ServerKind(
        kind=RemoteKind.VLLM,
        title="vLLM",
        loads_hub_ids=True,
        health_path="/health",
        mark_path="/version",
        owner="vllm",
        # It does not tell --max-num-seqs (256 if not set); more than this wait for memory anyway.
        default_slots=64,
        metrics=MetricNames(
            running="vllm:num_requests_running",
            waiting="vllm:num_requests_waiting",
            cache_usage="vllm:kv_cache_usage_perc",
            cache_info="vllm:cache_config_info",
        ),
        tokenize=TokenizeForm.VLLM,
        salt_field="cache_salt",
        # Chats have salts since 0.9, text completions since 0.10.
        salts_since=(0, 10),
        ids_field="return_token_ids",
        tells_cached=None,
    ),
    ServerKind(
        kind=RemoteKind.SGLANG,
        title="SGLang",
        loads_hub_ids=True,
        health_path="/health",
        mark_path="/get_server_info",
        owner="sglang",
        default_slots=64,
        info_path="/get_server_info",
        metrics=MetricNames(
            running="sglang:num_running_reqs",
            waiting="sglang:num_queue_reqs",
            cache_usage="sglang:token_usage",
        ),
        tokenize=TokenizeForm.VLLM,
        # Versions of 2025 and 2026 take the field and do nothing with it, so none is believed.
        salt_field="cache_salt",
        ids_field="return_token_ids",
        tells_cached=None,
        top_k_all=-1,
    ),
    ServerKind(
        kind=RemoteKind.LLAMACPP,
        title="llama.cpp",
        health_path="/health",
        mark_path="/props",
        owner="llamacpp",
        default_slots=1,
        info_path="/props",
        metrics=MetricNames(
            running="llamacpp:requests_processing", waiting="llamacpp:requests_deferred"
        ),
        tokenize=TokenizeForm.LLAMACPP,
        tells_cached=True,
    ),
    ServerKind(
        kind=RemoteKind.OLLAMA,
        title="Ollama",
        health_path="/api/version",
        mark_path="/api/version",
        owner="library",
        # OLLAMA_NUM_PARALLEL and OLLAMA_CONTEXT_LENGTH if not set.
        default_slots=1,
        default_context=4096,
    ),
    ServerKind(
        kind=RemoteKind.OPENAI,
        title="OpenAI-compatible server",
        health_path="/v1/models",
        mark_path=None,
        owner=None,
        default_slots=8,
        tells_cached=None,
    ),
)

KINDS: Mapping[RemoteKind, ServerKind] = MappingProxyType({each.kind: each for each in _ALL})
