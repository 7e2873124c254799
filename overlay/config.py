"""Every setting of a peer, with its meaning, unit and default.

The one list from which ``--help``, the commented ``rhizome.toml`` and the checks come. A flag wins
over the file, the file over the default. Nothing else reads settings, and nothing changes them
while a peer runs.
"""

# ruff: noqa: RUF009 - setting() is dataclasses.field with a description

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from overlay.address import Address, Endpoint, ip_host
from overlay.choices import Device, DType, EngineKind, Isolation, LogFormat, LogLevel, PolicyName
from overlay.errors import ConfigError
from overlay.http.names import certificate_name, dns_name, origin
from overlay.settings import (
    Kind,
    boolean,
    choice,
    duration,
    integer,
    number,
    optional_size,
    optional_text,
    options_of,
    read_toml,
    read_values,
    setting,
    template,
    text,
    texts,
)
from overlay.zone import ZoneRule, read_zone_rules, zone_name
from security.certificate import LEAF_LIFETIME_S, LEAF_LIFETIME_S_MAX

OVERLAY_PORT = 7401
ENROL_PORT = 7402
HTTP_PORT = 7403

F = TypeVar("F", bound=Callable[..., Any])


_ZONE_RULES = Kind(metavar="RULES", read=read_zone_rules, show=lambda _: "[]", many=True)
_PORT = integer(0, 65535)
_BOOTSTRAP = texts("ADDR[:PORT]", lambda each: Address.parse(each, default_port=OVERLAY_PORT))
_NET, _HTTP, _DISCOVERY = "Network", "HTTP", "Discovery and zones"
_REMOTE = "Engine: a server that runs already"
_ENGINE, _TOY, _ROUTING, _RUN = "Engine", "Toy engine", "Routing and gossip", "Running"


def _limit(default: int, text: str) -> Any:  # as setting(): the field's own type
    """A setting that bounds clients; 0 stands for no limit."""
    return setting(
        integer(0, 10**12),
        default,
        section="Limits of clients with a token; this host's owner has none",
        text=f"{text}, at this peer; 0: no limit.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerConfig:
    """The settings of one peer. Built by :func:`load_config`; an existing object is a legal one."""

    interfaces: tuple[str, ...] = setting(
        texts("NAME", suffix="s"),
        (),
        section=_NET,
        text="Network interfaces to use, IPv4 and IPv6; 'lo' keeps everything on this host.",
        shown="the private LAN ones: no loopback, bridge, container or tunnel interface",
    )
    port: int = setting(
        _PORT, OVERLAY_PORT, section=_NET, text="TCP port of the overlay; 0: any, printed."
    )
    enrol_port: int = setting(
        _PORT,
        ENROL_PORT,
        section=_NET,
        text="TCP port where tickets are redeemed (issuers only); 0: any, printed.",
    )
    listen: tuple[Endpoint, ...] = setting(
        texts("ADDR[:PORT]", Endpoint.parse),
        (),
        section=_NET,
        text="Addresses to listen on for other peers.",
        shown="every address of the interfaces above",
    )
    advertise: tuple[Endpoint, ...] = setting(
        texts("ADDR[:PORT]", Endpoint.parse),
        (),
        section=_NET,
        text="Addresses told to other peers, where they differ from those listened on (NAT).",
        shown="the addresses listened on",
    )
    source_address: str | None = setting(
        optional_text("ADDR", ip_host),
        None,
        section=_NET,
        text="Local address of outgoing connections.",
        shown="the system chooses",
    )
    http: Address = setting(
        text("ADDR:PORT", lambda each: Address.parse(each, default_port=HTTP_PORT)),
        Address("127.0.0.1", HTTP_PORT),
        section=_HTTP,
        text="Where the OpenAI-compatible API listens; beyond loopback it needs TLS.",
    )
    http_cert: str | None = setting(
        optional_text("FILE"),
        None,
        section=_HTTP,
        text="Certificate chain of the HTTP API (PEM).",
        shown="none",
    )
    http_key: str | None = setting(
        optional_text("FILE"), None, section=_HTTP, text="Its private key (PEM).", shown="none"
    )
    http_names: tuple[str, ...] = setting(
        texts("NAME", certificate_name, suffix="s"),
        (),
        section=_HTTP,
        text="Names and addresses of a certificate that the overlay's issuer makes for the HTTP "
        "API: any on the issuer's host, on others those that `rhizome ca http-name` has granted; "
        "clients trust it by `rhizome ca export`.",
        shown="none",
    )
    http_insecure: bool = setting(
        boolean(),
        False,
        section=_HTTP,
        text="Serve plain HTTP beyond loopback: tokens and prompts can be read on the way.",
    )
    http_hosts: tuple[str, ...] = setting(
        texts("NAME", dns_name, suffix="s"),
        (),
        section=_HTTP,
        text="Names, beside localhost and those in its certificate, that the API answers to; "
        "others are refused with 421, as a web page may have bent them.",
        shown="none",
    )
    http_origins: tuple[str, ...] = setting(
        texts("URL", origin, suffix="s"),
        (),
        section=_HTTP,
        text="Origins of web pages that may call the API from a browser (CORS).",
        shown="its own alone",
    )
    token_requests_per_min: int = _limit(6_000, "Requests a minute of one token")
    token_prompt_tokens_per_min: int = _limit(60_000_000, "Prompt tokens a minute of one token")
    token_concurrent: int = _limit(128, "Requests of one token that are under way at once")
    tenant_requests_per_min: int = _limit(60_000, "Requests a minute of all tokens of a tenant")
    tenant_prompt_tokens_per_min: int = _limit(
        600_000_000, "Prompt tokens a minute of all tokens of a tenant"
    )
    tenant_concurrent: int = _limit(
        512, "Requests of all tokens of a tenant that are under way at once"
    )
    mdns: bool = setting(
        boolean(), True, section=_DISCOVERY, text="Find peers by multicast DNS (UDP 5353)."
    )
    bootstrap: tuple[Address, ...] = setting(
        _BOOTSTRAP,
        (),
        section=_DISCOVERY,
        text="Addresses of peers to try, for networks without multicast.",
        shown="none",
    )
    zone: str | None = setting(
        optional_text("NAME", zone_name),
        None,
        section=_DISCOVERY,
        text="Name of the part of the network this peer is in.",
        shown="none",
    )
    zone_rules: tuple[ZoneRule, ...] = setting(
        _ZONE_RULES,
        (),
        section=_DISCOVERY,
        text="Which zones may send each other requests.",
        file_only=True,
    )
    engine: EngineKind = setting(
        choice(EngineKind),
        EngineKind.EMBEDDED,
        section=_ENGINE,
        text="What runs requests here: a model in this process, or a server that runs already "
        "(--engine-url); 'none' forwards all of them to other peers.",
    )
    slots: int = setting(
        integer(0, 4096),
        0,
        section=_ENGINE,
        text="Requests that run at once; 0: 8 in this process, as a server tells elsewhere.",
    )
    model: str | None = setting(
        optional_text("PATH|ID"),
        None,
        section=_ENGINE,
        text="Model folder, .gguf file or hub id of the embedded engine.",
        shown="the installed SmolLM2-135M-Instruct",
    )
    allow_variants: bool = setting(
        boolean(),
        False,
        section=_ENGINE,
        text="Send requests also to peers with other weights or quantisation under the same name.",
    )
    device: Device = setting(
        choice(Device), Device.AUTO, section=_ENGINE, text="Where the model is computed."
    )
    dtype: DType = setting(
        choice(DType),
        DType.AUTO,
        section=_ENGINE,
        text="Number format; 'auto' is float32 on a CPU, the checkpoint's own on a GPU.",
    )
    threads: int = setting(
        integer(0, 1024),
        0,
        section=_ENGINE,
        text="CPU threads of the engine; 0: physical cores minus one.",
    )
    kv_cache_bytes: int | None = setting(
        optional_size(1 << 20, 1 << 44),
        None,
        section=_ENGINE,
        text="Memory for cached prefixes; larger keeps more of them.",
        shown="1GiB on a CPU, 85 % of what the weights leave free on a GPU",
    )
    kv_reserved: float = setting(
        number(0, 1),
        0.5,
        section=_ENGINE,
        text="Share of that memory, 0 to 1, that is divided among the tenants that use it; the "
        "rest goes to whoever asks first.",
    )
    isolation: Isolation = setting(
        choice(Isolation),
        Isolation.SHARED,
        section=_ENGINE,
        text="What tenants see of each other. 'shared': load, and what is evicted beyond the "
        "reserved share. 'strict': memory, taken at once, and slots are divided for good among "
        "this host's tenants, and a hit saves its own tenant time but nobody else.",
    )
    reuse_decoded: bool = setting(
        boolean(),
        True,
        section=_ENGINE,
        text="Keep what was generated too, so that a chat's next turn finds the answer cached.",
    )
    queue_max: int = setting(
        integer(1, 100_000),
        64,
        section=_ENGINE,
        text="Requests that may wait here; more are refused with 503.",
    )
    engine_url: str | None = setting(
        optional_text("URL"),
        None,
        section=_REMOTE,
        text="Where the inference server answers, as in http://127.0.0.1:8000.",
        shown="none",
    )
    engine_model: str | None = setting(
        optional_text("NAME"),
        None,
        section=_REMOTE,
        text="The one of its models to serve.",
        shown="all that it has",
    )
    engine_tokenizer: str | None = setting(
        optional_text("PATH|ID"),
        None,
        section=_REMOTE,
        text="Folder or hub id with its model's tokenizer, where the server names none that is "
        "on this host.",
        shown="as the server tells, else its /tokenize, else prompts are compared as text",
    )
    engine_key_file: str | None = setting(
        optional_text("FILE"),
        None,
        section=_REMOTE,
        text="File with the server's API key.",
        shown="none",
    )
    engine_events: str | None = setting(
        optional_text("ENDPOINT"),
        None,
        section=_REMOTE,
        text="ZeroMQ endpoint of its KV cache events, as in tcp://127.0.0.1:5557 or ipc:///run/kv.",
        shown="none: its cache is estimated",
    )
    engine_replay: str | None = setting(
        optional_text("ENDPOINT"),
        None,
        section=_REMOTE,
        text="ZeroMQ endpoint where lost events are asked for again.",
        shown="none: a gap makes what is known of its cache an estimate",
    )
    engine_events_bind: bool = setting(
        boolean(),
        False,
        section=_REMOTE,
        text="Listen at the events' endpoint: for a server that connects to it.",
    )
    engine_ranks: int = setting(
        integer(1, 64),
        1,
        section=_REMOTE,
        text="Data-parallel ranks of the server; each has events of its own.",
    )
    engine_tenant: str | None = setting(
        optional_text("NAME"),
        None,
        section=_REMOTE,
        text="The tenant that a server without cache salts serves.",
        shown="the only one of this host",
    )
    engine_fetches: bool = setting(
        boolean(),
        False,
        section=_REMOTE,
        text="Let clients name URLs (of images) that the server fetches: it may reach what they "
        "cannot.",
    )
    engine_shared_by_tenants: bool = setting(
        boolean(),
        False,
        section=_REMOTE,
        text="Let all tenants share a server without cache salts: they can tell by its speed what "
        "others have asked.",
    )
    toy_slots: int = setting(
        integer(1, 1024), 4, section=_TOY, text="Requests that the toy engine serves at once."
    )
    toy_prefill_tokens_per_s: float = setting(
        number(1, 1e9), 5000.0, section=_TOY, text="Prompt tokens per second of the toy engine."
    )
    toy_decode_s: float = setting(
        duration(0.0, 60.0), 0.02, section=_TOY, text="Time of one answer token of the toy engine."
    )
    toy_context_tokens: int = setting(
        integer(16, 1 << 24), 8192, section=_TOY, text="Tokens of prompt plus answer it can hold."
    )
    toy_cache_tokens: int = setting(
        integer(16, 1 << 30), 131_072, section=_TOY, text="Tokens that its prefix cache holds."
    )
    policy: PolicyName = setting(
        choice(PolicyName),
        PolicyName.COST,
        section=_ROUTING,
        text="How to choose the peer that runs a request; 'cost' is soonest expected completion.",
    )
    silence_s: float = setting(
        duration(0.1, 600.0),
        1.5,
        section=_ROUTING,
        text="Silence after which a serving peer counts as dead; lower resumes sooner, but "
        "takes a long pause for death.",
    )
    forward_budget_s: float = setting(
        duration(0.0, 60.0),
        0.05,
        section=_ROUTING,
        text="How long, on top of two round trips, a peer may take to accept a request.",
    )
    gossip_period_s: float = setting(
        duration(0.05, 600.0),
        2.0,
        section=_ROUTING,
        text="Time between gossip bundles; lower is fresher and costs more bytes.",
    )
    anti_entropy_s: float = setting(
        duration(0.05, 3600.0),
        4.0,
        section=_ROUTING,
        text="Time between repairs with one random peer; lower heals lost messages sooner.",
    )
    ping_s: float = setting(
        duration(0.05, 600.0),
        1.0,
        section=_ROUTING,
        text="Time between pings of a connected peer; lower notices a dead one sooner.",
    )
    request_timeout_s: float = setting(
        duration(1.0, 86_400.0),
        600.0,
        section=_RUN,
        text="The longest that one request may take in all.",
    )
    leaf_s: float = setting(
        duration(2.0, LEAF_LIFETIME_S_MAX),
        LEAF_LIFETIME_S,
        section=_RUN,
        text="How long certificates last that this host issues (issuers only); hosts renew them at "
        "half of that.",
    )
    drain_s: float = setting(
        duration(0.0, 86_400.0),
        30.0,
        section=_RUN,
        text="How long a stopping peer lets its running requests finish.",
    )
    log: LogFormat = setting(
        choice(LogFormat), LogFormat.TEXT, section=_RUN, text="How log lines on stderr look."
    )
    log_level: LogLevel = setting(
        choice(LogLevel), LogLevel.INFO, section=_RUN, text="Least important log line written."
    )

    def __post_init__(self) -> None:
        if self.engine.is_remote and self.engine_url is None:
            raise ConfigError(
                f"engine {self.engine.value} needs the server's address: "
                "--engine-url http://127.0.0.1:8000"
            )
        if not self.engine.is_remote and self.engine_url is not None:
            raise ConfigError(
                f"engine_url goes with --engine vllm, sglang, llamacpp, ollama or openai, "
                f"not with {self.engine.value}"
            )
        if self.isolation is Isolation.STRICT and self.engine is not EngineKind.EMBEDDED:
            raise ConfigError(
                f"isolation = strict needs the embedded engine: {self.engine.value} decides itself "
                "what runs when"
            )
        if self.engine_tenant is not None and self.engine_shared_by_tenants:
            raise ConfigError("engine_tenant contradicts engine_shared_by_tenants: drop one")
        if (self.http_cert is None) != (self.http_key is None):
            raise ConfigError("http_cert and http_key go together: give both or neither")
        if self.http_cert is not None and self.http_insecure:
            raise ConfigError("http_insecure contradicts http_cert and http_key: drop one of them")
        if self.http_names and (self.http_cert is not None or self.http_insecure):
            raise ConfigError("http_name contradicts http_cert and http_insecure: drop one of them")
        in_clear = self.http_cert is None and not self.http_names
        if not self.http.is_loopback and in_clear and not self.http_insecure:
            raise ConfigError(
                f"http: {self.http} is open to other hosts: give --http-cert and --http-key, "
                "--http-name, or --http-insecure to serve it in clear"
            )


def config_options(*names: str) -> Callable[[F], F]:
    """A decorator: adds flags for the named settings (all, if none is named) to a click command.

    The command gets them as one argument ``flags``, a mapping for :func:`load_config` that holds
    only the flags that were given.
    """
    return options_of(PeerConfig, names)


def load_config(file: Path | None, flags: Mapping[str, object] | None = None) -> PeerConfig:
    """The settings of a peer: flags over the file over the defaults.

    Args:
        file: ``rhizome.toml``; None or a missing one counts as empty.
        flags: raw values by public name, as :func:`config_options` gives them.

    Raises:
        ConfigError: for the first mistake, naming where it is and what to write instead.
    """
    values: dict[str, Any] = {}
    if file is not None:
        values |= read_values(PeerConfig, read_toml(file), source=str(file))
    values |= read_values(PeerConfig, flags or {}, source="")
    return PeerConfig(**values)


_TITLE = """\
Settings of this Rhizome peer. Every one is also a flag of `rhizome peer`, which wins over this
file. Lines that begin with # followed by a name show the default: remove the # to change one."""

_FOOTER = """
# Which zones may send each other requests; pairs that are not named may. Repeat as needed.
#[[zone_rules]]
#between = ["office", "cellar"]
#forward = true
#max_rtt = "20ms"
"""


def config_template() -> str:
    """The commented ``rhizome.toml``: every setting with its meaning and default, none active."""
    return template(PeerConfig, title=_TITLE, footer=_FOOTER)
