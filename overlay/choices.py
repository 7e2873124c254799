"""What a setting of a peer may be one of; the values are what a person writes."""

from __future__ import annotations

import enum


class EngineKind(enum.Enum):
    """Which engine a peer runs."""

    EMBEDDED = "embedded"
    VLLM = "vllm"
    SGLANG = "sglang"
    LLAMACPP = "llamacpp"
    OLLAMA = "ollama"
    OPENAI = "openai"
    TOY = "toy"
    NONE = "none"

    @property
    def is_remote(self) -> bool:
        """Whether it is a server that runs beside the peer."""
        return self not in {EngineKind.EMBEDDED, EngineKind.TOY, EngineKind.NONE}


class Device(enum.Enum):
    """Where the embedded engine computes."""

    AUTO = "auto"
    CUDA = "cuda"
    CPU = "cpu"


class DType(enum.Enum):
    """The number format of the embedded engine."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Isolation(enum.Enum):
    """What tenants of one host may see of each other's use of its engine."""

    SHARED = "shared"
    STRICT = "strict"


class PolicyName(enum.Enum):
    """How a peer chooses who runs a request."""

    COST = "cost"
    LONGEST_PREFIX = "longest-prefix"
    BOUNDED_HASH = "bounded-hash"
    RANDOM = "random"
    ROUND_ROBIN = "round-robin"
    LEAST_LOADED = "least-loaded"
    LOCAL = "local"


class LogFormat(enum.Enum):
    """How log lines look."""

    TEXT = "text"
    JSON = "json"


class LogLevel(enum.Enum):
    """The least important log line that is written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
