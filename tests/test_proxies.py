"""The device behind a proxy: the unchanged SDK, by MQTT over WebSockets, through a proxy on this machine."""

from pathlib import Path

import beyond
import pytest
from devices import NAME
from executed import errors, only_sentence, read, said, tagged
from leaks import leaks
from test_azure import CLEAN_UP, with_hands
from wires import ConnectProxy

from dpsx_helpers import proxies, targets, tutorial
from dpsx_helpers.emulator import Emulator
from dpsx_helpers.tutorial import Stop

pytest_plugins = ["kit"]

PASSWORD = "s3cret-of-the-proxy"


def test_the_sdk_is_given_the_proxy_of_the_environment(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPSX_PROXY", f"socks5://me:{PASSWORD}@proxy.example:9")
    assert targets.proxy_options() is None, "no proxy leads to the emulator"
    tutorial.enter("target", "azure")
    options = targets.proxy_options()
    assert options is not None
    assert (options.proxy_type, options.proxy_address, options.proxy_port) == ("SOCKS5", "proxy.example", 9)
    assert (options.proxy_username, options.proxy_password) == ("me", PASSWORD)
    assert PASSWORD not in repr(options)
    monkeypatch.delenv("DPSX_PROXY")
    assert targets.proxy_options() is None
    monkeypatch.setenv("DPSX_PROXY", f"me:{PASSWORD}")
    with pytest.raises(Stop, match=r"DPSX_PROXY\) is not of the form") as stopped:
        targets.proxy_options()
    assert PASSWORD not in str(stopped.value)


def test_whether_something_listens_is_asked_through_the_proxy(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tutorial.enter("target", "azure")
    with ConnectProxy("127.0.0.1", login=f"me:{PASSWORD}") as proxy:
        for login, answer in ((f"me:{PASSWORD}", "502"), ("me:wrong", "407")):
            monkeypatch.setenv("DPSX_PROXY", f"http://{login}@127.0.0.1:{proxy.port}")
            fault = targets.listens("127.0.0.1", 9, proxy=proxies.chosen())
            assert fault is not None
            assert fault.startswith(
                f"the proxy http://127.0.0.1:{proxy.port} lets nothing through to 127.0.0.1 on port 9"
            )
            assert answer in fault
            assert PASSWORD not in fault
    gone = targets.listens("127.0.0.1", 9, proxy=proxies.chosen())
    assert gone is not None
    assert "refused" in gone


def test_the_quickstart_runs_through_a_proxy_and_the_device_takes_no_other_way(tmp_path: Path) -> None:
    with (
        beyond.azure(tmp_path, "--ws-port", "443") as known,
        ConnectProxy("127.0.0.1", login=f"me:{PASSWORD}") as proxy,
    ):
        own = {
            "DPSX_PROXY": f"http://me:{PASSWORD}@127.0.0.1:{proxy.port}",
            "DPSX_TRANSPORT": "websockets",
            "DPSX_REGISTRATION_ID": NAME,
            "DPSX_PASS_PHRASE": "pass phrase",
        }
        emulator = Emulator.attach(tmp_path / "stand-in")
        with beyond.desk(tmp_path / "desk", **known, **own) as learner:
            notebooks = {number: read(number) for number in (2, 3, 4)} | {5: with_hands(5, ("form", CLEAN_UP))}
            ran = {number: learner.run(notebook) for number, notebook in notebooks.items()}
        stored = emulator.messages(NAME)
        log = emulator.log_file.read_text()
    for number, notebook in ran.items():
        assert errors(notebook) == [], number
    assert "initialAssignment" in said(tagged(ran[4], "run"))
    assert "The hub acknowledged one more message." in said(tagged(ran[5], "still-there"))
    assert len(stored) == 21
    assert set(proxy.targets) == {f"{known['DPSX_PROVISIONING_HOST']}:443"}
    connected = sum("< CONNECT" in line for line in log.splitlines())
    assert connected >= 5, log
    assert len(proxy.targets) >= connected, "every connection of the device is a tunnel"
    assert proxy.bytes_passed > 10_000
    assert leaks(tmp_path / "desk", [PASSWORD]) == []


def test_a_proxy_that_refuses_is_told_before_the_device_runs(tmp_path: Path) -> None:
    with beyond.azure(tmp_path, "--ws-port", "443") as known, ConnectProxy("127.0.0.1", login="me:right") as proxy:
        own = {
            "DPSX_PROXY": f"http://me:{PASSWORD}@127.0.0.1:{proxy.port}",
            "DPSX_TRANSPORT": "websockets",
            "DPSX_REGISTRATION_ID": NAME,
            "DPSX_PASS_PHRASE": "pass phrase",
        }
        with beyond.desk(tmp_path / "desk", **known, **own) as learner:
            learner.run(read(2))
            sentence = only_sentence(learner.run(read(4)))
    assert sentence.startswith(f"The proxy http://127.0.0.1:{proxy.port} lets nothing through to ")
    assert "407" in sentence
    assert PASSWORD not in sentence
    assert proxy.targets == []
