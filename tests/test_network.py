"""The way to an endpoint: verdicts over what was seen, and looks at stand-ins on this machine. Azure is never asked."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import certifi
import pytest
from pki import Authority, Device, issue, make_ca
from processes import free_host
from wires import ConnectProxy, Silent, Slammed, TlsServer

from dpsx_helpers import network, proxies, tutorial
from dpsx_helpers.machine import Finding, fit
from dpsx_helpers.network import probes, verdicts
from dpsx_helpers.network.probes import Door, Handshake
from dpsx_helpers.network.verdicts import MQTT, WEBSOCKETS, Seen
from dpsx_helpers.proxies import Proxy
from dpsx_helpers.tutorial import Stop

pytest_plugins = ["kit"]

FINE = Handshake(0, "A Public Authority, Well Known")
UNKNOWN = Handshake(20, "Snoop CA, School")
NOW = datetime(2026, 11, 27, tzinfo=UTC)


def a_door(port: int, machine: Handshake = FINE, public: Handshake | None = FINE, ahead: float | None = 1) -> Door:
    return Door(port, machine=machine, public=public, ahead=ahead)


def shut(port: int) -> Door:
    return Door(port, fault="no answer within 4 seconds")


ALL_WELL = Seen("dps.example", ("192.0.2.1",), a_door(MQTT), a_door(WEBSOCKETS))


def named(found: list[Finding], start: str) -> Finding:
    (finding,) = [one for one in found if one.name.startswith(start)]
    return finding


# --- verdicts ---------------------------------------------------------------------------------------------------------


def test_where_all_is_well_mqtt_is_the_transport_and_nothing_is_to_mend() -> None:
    found = verdicts.findings(ALL_WELL)
    assert fit(found)
    assert not [one for one in found if one.remedy]
    assert verdicts.transport(ALL_WELL) == ("mqtt", "mqtt, on port 8883.")
    assert named(found, "name dps.example").found == "192.0.2.1"
    assert named(found, "certificate on port 8883").found == "good, issued by A Public Authority, Well Known"


@pytest.mark.parametrize("spoil", [lambda: shut(MQTT), lambda: a_door(MQTT, UNKNOWN, UNKNOWN), lambda: None])
def test_where_8883_is_of_no_use_it_is_websockets_and_still_fit(spoil: Callable[[], Door | None]) -> None:
    seen = replace(ALL_WELL, mqtt=spoil())
    found = verdicts.findings(seen)
    assert fit(found)
    assert [one for one in found if not one.ok and one.remedy]
    kind, sentence = verdicts.transport(seen)
    assert kind == "websockets"
    assert "set DPSX_TRANSPORT=websockets" in sentence
    assert not fit(verdicts.findings(replace(seen, transport="mqtt"))), "the learner has said mqtt"
    assert verdicts.transport(replace(seen, transport="websockets"))[1] == "websockets, as DPSX_TRANSPORT says."


def test_where_websockets_are_chosen_and_shut_mqtt_is_the_advice() -> None:
    seen = replace(ALL_WELL, websockets=shut(WEBSOCKETS), transport="websockets")
    assert verdicts.transport(seen) == ("mqtt", "mqtt, on port 8883 (DPSX_TRANSPORT says websockets: unset it).")
    assert not fit(verdicts.findings(seen))


def test_where_nothing_is_open_everything_is_to_mend_with_its_remedy() -> None:
    seen = replace(ALL_WELL, mqtt=shut(MQTT), websockets=None)
    found = verdicts.findings(seen)
    assert not fit(found)
    assert verdicts.transport(seen)[0] == "none"
    faults = [one for one in found if not one.ok]
    assert [one.found for one in faults] == ["no answer within 4 seconds", "no answer in time"]
    assert all(one.remedy and one.required for one in faults)


@pytest.mark.parametrize("why", ["Name or service not known", None])
def test_where_the_name_is_unknown_that_is_the_only_thing_to_mend(why: str | None) -> None:
    seen = Seen("dps.example", why, shut(MQTT), shut(WEBSOCKETS))
    found = verdicts.findings(seen)
    (fault,) = [one for one in found if not one.ok]
    assert fault.found == f"cannot be looked up ({why or 'the name server does not answer'})"
    assert fault.required
    assert "DPSX_PROVISIONING_HOST" in fault.remedy
    assert verdicts.transport(seen)[1].startswith("none: this machine cannot look up the name")
    proxied = replace(seen, proxy=Proxy("HTTP", "proxy.example", 3128), through=a_door(WEBSOCKETS))
    assert fit(verdicts.findings(proxied)), "the proxy looks it up"


@pytest.mark.parametrize(
    ("machine", "public", "says", "remedy"),
    [
        (FINE, FINE, "good, issued by A Public Authority", ""),
        (UNKNOWN, UNKNOWN, "the connection is intercepted", "exempt *.azure-devices-provisioning.net"),
        (replace(UNKNOWN, code=0), UNKNOWN, "this machine trusts it, but it is no public authority", "exempt"),
        (replace(FINE, code=20), FINE, "but this machine does not trust it", f"SSL_CERT_FILE={certifi.where()}"),
        (Handshake(10, "CA", NOW, NOW), UNKNOWN, "not valid at this time: valid from 2026-11-27", "set the machine's"),
        (Handshake(9, "CA", NOW, NOW), UNKNOWN, "not valid at this time", "clock"),
        (Handshake(62, "CA"), Handshake(62, "CA"), "for another name (issued by CA)", "sign-in"),
        (Handshake(None, fault="reset"), Handshake(None, fault="reset"), "TLS breaks off (reset)", "the other port"),
        (UNKNOWN, None, "not trusted (issued by Snoop CA, School)", "SSL_CERT_FILE"),
    ],
)
def test_each_certificate_has_its_verdict(
    machine: Handshake, public: Handshake | None, says: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    seen = replace(ALL_WELL, mqtt=a_door(MQTT, machine, public), websockets=shut(WEBSOCKETS))
    finding = named(verdicts.findings(seen), "certificate on port 8883")
    assert says in finding.found
    assert finding.ok == (remedy == "")
    assert remedy in finding.remedy
    assert verdicts.transport(seen)[0] == ("mqtt" if finding.ok else "none")


def test_a_trust_file_of_ones_own_is_named_where_it_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/etc/own.pem")
    seen = replace(ALL_WELL, mqtt=a_door(MQTT, replace(FINE, code=20)))
    assert "unset SSL_CERT_FILE, or add" in named(verdicts.findings(seen), "certificate on port 8883").remedy


@pytest.mark.parametrize(
    ("ahead", "ok", "says"),
    [
        (2.4, True, "2 s apart"),
        (-299, True, "299 s apart"),
        (720, False, "12 minutes behind"),
        (-3600, False, "60 minutes ahead"),
    ],
)
def test_a_clock_may_be_five_minutes_off(ahead: float, ok: bool, says: str) -> None:
    found = verdicts.findings(replace(ALL_WELL, websockets=a_door(WEBSOCKETS, ahead=ahead)))
    finding = named(found, "clock")
    assert (finding.ok, finding.found) == (ok, says)
    assert fit(found) == ok
    assert ("set the machine's clock" in finding.remedy) == (not ok)


def test_a_server_that_does_not_tell_its_time_is_not_asked_again() -> None:
    found = verdicts.findings(replace(ALL_WELL, websockets=a_door(WEBSOCKETS, ahead=None)))
    assert not [one for one in found if one.name.startswith("clock")]


def test_a_proxy_that_is_set_up_is_proposed_where_nothing_else_is_open() -> None:
    system = {"https": "http://proxy.example:3128"}
    seen = replace(ALL_WELL, mqtt=shut(MQTT), websockets=shut(WEBSOCKETS), system=system)
    assert "set DPSX_PROXY to it (http://proxy.example:3128) and DPSX_TRANSPORT" in verdicts.transport(seen)[1]
    for name in ("mqtt", "all", "http"):
        assert "http://one.example:1" in verdicts.transport(replace(seen, system={name: "http://one.example:1"}))[1]
    open_one = replace(ALL_WELL, system=system)
    assert verdicts.transport(open_one)[0] == "mqtt"
    assert "the device goes past them" in named(verdicts.findings(open_one), "proxies").found


def test_the_one_proxy_that_the_device_takes_by_itself_is_told() -> None:
    seen = replace(ALL_WELL, system={"mqtt": "http://proxy.example:3128"})
    finding = named(verdicts.findings(seen), "proxies")
    assert finding.found == "mqtt: http://proxy.example:3128; the device takes that for mqtt by itself"
    assert finding.remedy.startswith("unset MQTT_PROXY, and set DPSX_PROXY to it")
    assert fit(verdicts.findings(seen))


def test_a_chosen_proxy_is_the_way_if_it_is_open() -> None:
    proxy = Proxy("HTTP", "proxy.example", 3128)
    seen = replace(ALL_WELL, mqtt=shut(MQTT), websockets=shut(WEBSOCKETS), proxy=proxy, through=a_door(WEBSOCKETS))
    assert fit(verdicts.findings(seen))
    assert verdicts.transport(seen)[1].endswith(
        "through the proxy http://proxy.example:3128: set DPSX_TRANSPORT=websockets."
    )
    snooping = replace(seen, through=a_door(WEBSOCKETS, UNKNOWN, UNKNOWN))
    assert not fit(verdicts.findings(snooping))
    assert verdicts.transport(snooping)[0] == "none"


# --- looks ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Authority:
    return make_ca(tmp_path, "Everybody's Root")


@pytest.fixture
def snoop(tmp_path: Path) -> Authority:
    return make_ca(tmp_path, "Snoop Root")


@pytest.fixture
def server(tmp_path: Path, root: Authority) -> Device:
    return issue(tmp_path, "an endpoint", root, address="127.0.0.1")


@pytest.fixture(autouse=True)
def clean(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Azure, no proxy of this machine, and quick to give up."""
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "MQTT_PROXY", "NO_PROXY"):
        for one in (name, name.lower()):
            monkeypatch.delenv(one, raising=False)
    tutorial.enter("target", "azure")
    monkeypatch.setattr(probes, "EACH", 2.0)


def looked_at(mqtt: int, websockets: int, everybody: Authority) -> Seen:
    return network.look("127.0.0.1", mqtt=mqtt, websockets=websockets, public=str(everybody.certificate_file))


def trust(monkeypatch: pytest.MonkeyPatch, *authorities: Authority) -> None:
    bundle = authorities[0].certificate_file.with_name("bundle.pem")
    bundle.write_text("".join(one.pem for one in authorities))
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))


def test_an_open_way_is_seen_as_one(root: Authority, server: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    trust(monkeypatch, root)
    with TlsServer("127.0.0.1", server) as mqtt, TlsServer("127.0.0.1", server, datetime.now(UTC)) as web:
        seen = looked_at(mqtt.port, web.port, root)
    assert seen.addresses == ("127.0.0.1",)
    assert seen.mqtt is not None
    assert seen.mqtt.machine is not None
    assert (seen.mqtt.machine.code, seen.mqtt.machine.issuer) == (0, "Everybody's Root")
    assert fit(verdicts.findings(seen))
    assert verdicts.transport(seen)[0] == "mqtt"
    assert named(verdicts.findings(seen), "clock").ok
    assert (mqtt.requests, web.requests) == ([], ["HEAD / HTTP/1.1"])


def test_a_closed_port_leads_to_websockets(root: Authority, server: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    trust(monkeypatch, root)
    with TlsServer("127.0.0.1", server) as gone:
        pass
    with TlsServer("127.0.0.1", server) as web:
        seen = looked_at(gone.port, web.port, root)
    assert named(verdicts.findings(seen), "port 8883").found == "refused"
    assert verdicts.transport(seen)[0] == "websockets"


@pytest.mark.parametrize("trusted", [True, False], ids=["trusted here", "unknown here"])
def test_an_interceptor_is_named(
    trusted: bool, root: Authority, snoop: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trust(monkeypatch, root, *((snoop,) if trusted else ()))
    forged = issue(tmp_path, "an endpoint", snoop, address="127.0.0.1", chain=())
    with TlsServer("127.0.0.1", forged) as mqtt, TlsServer("127.0.0.1", forged) as web:
        seen = looked_at(mqtt.port, web.port, root)
    for port in ("8883", "443"):
        finding = named(verdicts.findings(seen), f"certificate on port {port}")
        assert not finding.ok
        assert finding.found.startswith("issued by Snoop Root (")
        assert "intercepted" in finding.found
    assert verdicts.transport(seen)[0] == "none"


def test_a_machine_without_the_public_authorities_is_told_so(
    root: Authority, snoop: Authority, server: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    trust(monkeypatch, snoop)
    with TlsServer("127.0.0.1", server) as mqtt, TlsServer("127.0.0.1", server) as web:
        found = verdicts.findings(looked_at(mqtt.port, web.port, root))
    assert (
        "good, issued by Everybody's Root, but this machine does not" in named(found, "certificate on port 443").found
    )


@pytest.mark.parametrize("days", [-40, 40], ids=["expired", "not yet valid"])
def test_a_certificate_of_another_time_points_at_the_clock(
    days: int, root: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trust(monkeypatch, root)
    old = issue(tmp_path, "an endpoint", root, address="127.0.0.1", valid_from=timedelta(days=days))
    with TlsServer("127.0.0.1", old) as mqtt, TlsServer("127.0.0.1", old) as web:
        found = verdicts.findings(looked_at(mqtt.port, web.port, root))
    finding = named(found, "certificate on port 8883")
    start = datetime.now(UTC) + timedelta(days=days)
    assert f"valid from {start:%Y-%m-%d} to {start + timedelta(days=30):%Y-%m-%d}" in finding.found
    assert finding.remedy.startswith("set the machine's clock")


def test_a_certificate_of_another_host_is_told(
    root: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trust(monkeypatch, root)
    other = issue(tmp_path, "another", root, address="127.0.0.2")
    with TlsServer("127.0.0.1", other) as mqtt, TlsServer("127.0.0.1", other) as web:
        found = verdicts.findings(looked_at(mqtt.port, web.port, root))
    assert named(found, "certificate on port 8883").found == "for another name (issued by Everybody's Root)"


@pytest.mark.parametrize("minutes", [-20, 0, 20])
def test_the_servers_clock_is_read(
    minutes: int, root: Authority, server: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    trust(monkeypatch, root)
    with TlsServer("127.0.0.1", server, datetime.now(UTC) + timedelta(minutes=minutes)) as web:
        seen = looked_at(web.port, web.port, root)
    assert seen.websockets is not None
    assert seen.websockets.ahead == pytest.approx(60 * minutes, abs=5)


def test_who_lets_no_tls_through_or_says_nothing_is_told_in_time(
    root: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    trust(monkeypatch, root)
    monkeypatch.setattr(probes, "EACH", 0.5)
    with Silent("127.0.0.1") as silent, Slammed("127.0.0.1") as slammed:
        start = time.monotonic()
        found = verdicts.findings(looked_at(silent.port, slammed.port, root))
        assert time.monotonic() - start < 10
    for port in ("8883", "443"):
        assert named(found, f"certificate on port {port}").found.startswith("TLS breaks off (")


def test_a_look_that_does_not_end_does_not_hold_up_the_others() -> None:
    start = time.monotonic()
    seen = probes.together({"slow": partial(time.sleep, 5), "quick": lambda: 1}, within=0.3)
    assert seen == {"slow": None, "quick": 1}
    assert time.monotonic() - start < 3


def test_a_name_that_does_not_exist_is_told() -> None:
    assert isinstance(probes.addresses("no-such-name.invalid"), str)
    assert isinstance(probes.addresses("x" * 300), str)


def test_through_a_chosen_proxy_the_endpoint_is_seen(
    root: Authority, server: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    trust(monkeypatch, root)
    with ExitStack() as stack:
        web = stack.enter_context(TlsServer("127.0.0.1", server, datetime.now(UTC)))
        proxy = stack.enter_context(ConnectProxy("127.0.0.1", login="me:s3cret"))
        monkeypatch.setenv("DPSX_PROXY", f"http://me:s3cret@127.0.0.1:{proxy.port}")
        seen = looked_at(web.port, web.port, root)
        assert verdicts.good(seen.through)
        assert set(proxy.targets) == {f"127.0.0.1:{web.port}"}
        monkeypatch.setenv("DPSX_PROXY", f"http://me:wrong@127.0.0.1:{proxy.port}")
        refused = looked_at(web.port, web.port, root)
    assert refused.through is not None
    assert "407" in refused.through.fault
    for one in (seen, refused):
        told = repr((one, verdicts.findings(one), verdicts.transport(one)))
        assert "s3cret" not in told
        assert "wrong" not in told
        assert f"http://127.0.0.1:{proxy.port}" in told


# --- proxies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown", "kind"),
    [
        ("http://proxy.example:3128", "http://proxy.example:3128", "HTTP"),
        ("HTTP://proxy.example", "http://proxy.example:8080", "HTTP"),
        ("socks5://proxy.example", "socks5://proxy.example:1080", "SOCKS5"),
        ("socks5h://a:b%40c@proxy.example:9", "socks5://proxy.example:9", "SOCKS5"),
        ("socks4://10.0.0.1", "socks4://10.0.0.1:1080", "SOCKS4"),
        (" http://[::1]:8888/ ", "http://[::1]:8888", "HTTP"),
    ],
)
def test_a_proxy_is_read_and_shown_without_its_login(text: str, shown: str, kind: str) -> None:
    proxy = proxies.parse(text, "in a test")
    assert (str(proxy), proxy.kind) == (shown, kind)
    assert "b@c" not in repr(proxy)
    assert proxy.password == ("b@c" if "%40" in text else None)


@pytest.mark.parametrize(
    "text", ["", "proxy.example:8080", "https://proxy.example", "http://", "http://a:b@h:x", "ftp://h"]
)
def test_what_is_no_proxy_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(Stop, match=r"The proxy \(in a test\) is not of the form") as stopped:
        proxies.parse(text, "in a test")
    assert "a:b@" not in str(stopped.value)


def test_the_proxies_of_the_system_are_told_without_their_login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:s3cret@proxy.example:3128")
    monkeypatch.setenv("ALL_PROXY", "quic://me:s3cret@proxy.example")
    told = proxies.of_the_system("dps.example")
    assert told == {"all": "of a form that is not known here", "https": "http://proxy.example:3128"}
    monkeypatch.setenv("MQTT_PROXY", "http://proxy.example")
    assert proxies.of_the_system("dps.example")["mqtt"] == "http://proxy.example:8080"
    monkeypatch.setenv("NO_PROXY", "example.org,dps.example")
    assert proxies.of_the_system("dps.example") == {}


def test_no_proxy_leads_to_the_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPSX_PROXY", "http://proxy.example:3128")
    assert proxies.chosen() is not None
    tutorial.enter("target", "emulator")
    assert proxies.chosen() is None


def test_a_port_on_which_nothing_listens_is_refused_at_once() -> None:
    assert probes.door(free_host(), 8883, None) == Door(8883, fault="refused")
