"""Settings: one list for flags, file and help; a flag over the file over the default."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from overlay.address import Address, Endpoint
from overlay.choices import Device, EngineKind, Isolation, LogFormat, PolicyName
from overlay.config import PeerConfig, config_options, config_template, load_config
from overlay.errors import ConfigError
from overlay.settings import settings_of
from overlay.zone import ZoneRule


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rhizome.toml"


def flags_of(*arguments: str) -> dict[str, object]:
    """What a command that takes every setting gets for these arguments."""
    got: dict[str, object] = {}

    @click.command()
    @config_options()
    def command(flags: Mapping[str, object]) -> None:
        got.update(flags)

    result = CliRunner().invoke(command, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return got


def test_a_missing_file_and_no_flags_give_the_defaults(file: Path) -> None:
    assert load_config(file, {}) == load_config(None) == PeerConfig()


def test_the_template_as_written_changes_nothing(file: Path) -> None:
    file.write_text(config_template())
    assert load_config(file) == PeerConfig()


def test_every_line_of_the_template_is_a_legal_setting_with_its_default(file: Path) -> None:
    lines = config_template().split("#[[zone_rules]]")[0].splitlines()
    active = [line[1:] for line in lines if line.startswith("#") and not line.startswith("# ")]
    names = {line.split(" = ")[0] for line in active}
    assert names == {each.name for each in settings_of(PeerConfig)} - {"zone_rules"}
    file.write_text("\n".join(active))
    assert load_config(file) == PeerConfig()


def test_a_flag_wins_over_the_file_and_the_file_over_the_default(file: Path) -> None:
    file.write_text('drain = "5s"\nport = 9000\ninterface = ["eth0", "eth1"]\nmdns = false\n')
    config = load_config(file, flags_of("--drain", "1min", "--interface", "lo"))
    assert (config.drain_s, config.port, config.interfaces) == (60.0, 9000, ("lo",))
    assert not config.mdns
    assert config.enrol_port == PeerConfig().enrol_port
    assert load_config(file, flags_of("--mdns")).mdns


def test_flags_give_typed_values() -> None:
    config = load_config(
        None,
        flags_of(
            *("--engine", "toy", "--device", "cpu", "--policy", "longest-prefix", "--log", "json"),
            *("--kv-cache", "2GiB", "--silence", "800ms", "--http", "127.0.0.1:0"),
            *("--bootstrap", "192.168.1.5", "--bootstrap", "[fe80::1%eth0]:7000"),
            *("--listen", "10.0.0.2", "--advertise", "10.0.0.1:80", "--no-reuse-decoded"),
        ),
    )
    assert (config.engine, config.device) == (EngineKind.TOY, Device.CPU)
    assert (config.policy, config.log) == (PolicyName.LONGEST_PREFIX, LogFormat.JSON)
    assert (config.kv_cache_bytes, config.silence_s) == (2 << 30, 0.8)
    assert config.http == Address("127.0.0.1", 0)
    assert config.bootstrap == (Address("192.168.1.5", 7401), Address("fe80::1%eth0", 7000))
    assert config.listen == (Endpoint("10.0.0.2", None),)
    assert config.listen[0].at(7401) == Address("10.0.0.2", 7401)
    assert config.advertise[0].at(7401) == Address("10.0.0.1", 80)
    assert not config.reuse_decoded


def test_zone_rules_come_from_the_file_only(file: Path) -> None:
    file.write_text('zone = "a"\n[[zone_rules]]\nbetween = ["a", "b"]\nmax_rtt = "20ms"\n')
    config = load_config(file)
    assert config.zone_rules == (ZoneRule(between=("a", "b"), max_rtt_s=0.02),)
    assert load_config(file, {"zone": ""}).zone is None


def test_help_shows_every_flag_with_its_default() -> None:
    @click.command()
    @config_options()
    def command(flags: Mapping[str, object]) -> None:
        del flags

    text = CliRunner().invoke(command, ["--help"], terminal_width=300).output
    for each in settings_of(PeerConfig):
        if not each.setting.file_only:
            assert each.flag in text
            assert f"[default: {each.default_text}]" in " ".join(text.split())


def test_a_command_may_take_some_settings_only() -> None:
    @click.command()
    @config_options("interface", "port")
    def command(flags: Mapping[str, object]) -> None:
        click.echo(sorted(flags))

    assert "['port']" in CliRunner().invoke(command, ["--port", "1"]).output
    assert CliRunner().invoke(command, ["--drain", "1s"]).exit_code == 2


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("prot = 1", "rhizome.toml: no such setting: prot (did you mean port?)"),
        ("http-cert = 'x'", "no such setting: http-cert (did you mean http_cert?)"),
        ("zzzz = 1", "rhizome.toml: no such setting: zzzz"),
        ("drain = 30", 'rhizome.toml: drain: needs a unit and quotes, as in "30s"'),
        ("drain = '30'", "drain: '30' needs a unit: ms, s, min, h, d"),
        ("kv_cache = '1 Gb'", "kv_cache: unknown unit 'Gb'"),
        ("kv_cache = '1B'", "kv_cache: must be from 1MiB to 16TiB, not 1B"),
        ("port = 70000", "port: must be from 0 to 65535, not 70000"),
        ("port = true", "port: expected a whole number from 0 to 65535"),
        ("mdns = 'yes'", "mdns: expected true or false"),
        (
            "engine = 'torch'",
            "embedded, vllm, sglang, llamacpp, ollama, openai, toy, none, not 'torch'",
        ),
        ("listen = 'host.example'", "listen: not an IP address: 'host.example'"),
        ("bootstrap = ['10.0.0.1:x']", "bootstrap: address '10.0.0.1:x' needs a port"),
        ("interface = 3", "interface: expected a list, not a number"),
        ("zone = 'a b'", "zone: a zone is 1 to 64 letters"),
        ("toy_prefill_tokens_per_s = 'nan'", "expected a number from 1 to 1e+09"),
        ("http_cert = 'x'", "http_cert and http_key go together"),
        ("engine = 'vllm'", "needs the server's address: --engine-url http://127.0.0.1:8000"),
        ("engine_url = 'http://127.0.0.1:1'", "goes with --engine vllm, sglang"),
        ("http = '10.0.0.1:80'", "http: 10.0.0.1:80 is open to other hosts"),
        ("port = ", "is not valid TOML"),
        ("port = 1\nport = 2", "is not valid TOML"),
    ],
)
def test_each_mistake_in_the_file_gives_one_clear_line(
    file: Path, written: str, message: str
) -> None:
    file.write_text(written)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--kv-cache", "many"), "--kv-cache: expected a size"),
        (("--threads", "-1"), "--threads: must be from 0 to 1024"),
        (("--policy", "best"), "--policy: must be one of cost, longest-prefix"),
        (("--http", "0.0.0.0:80"), "http: 0.0.0.0:80 is open to other hosts"),
        (("--http-insecure", "--http-cert", "a", "--http-key", "b"), "contradicts"),
    ],
)
def test_each_mistake_in_a_flag_names_the_flag(flags: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, flags_of(*flags))
    assert message in str(caught.value)


def test_plain_http_beyond_loopback_needs_to_be_asked_for() -> None:
    assert load_config(None, flags_of("--http", "10.0.0.1", "--http-insecure")).http.port == 7403
    with_tls = flags_of("--http", "10.0.0.1", "--http-cert", "c", "--http-key", "k")
    assert load_config(None, with_tls).http_cert == "c"


@pytest.mark.parametrize("engine", ["toy", "none"])
def test_strict_isolation_needs_the_engine_that_can_keep_it(engine: str) -> None:
    with pytest.raises(ConfigError, match="needs the embedded engine"):
        load_config(None, {"isolation": "strict", "engine": engine})
    assert load_config(None, {"isolation": "strict"}).isolation is Isolation.STRICT


def test_an_unreadable_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)


def test_a_huge_file_is_refused_before_it_is_parsed(file: Path) -> None:
    file.write_bytes(b"#" * (2 << 20))
    with pytest.raises(ConfigError, match="too large"):
        load_config(file)


def test_a_file_that_is_not_text_is_refused(file: Path) -> None:
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(file)
