"""Service access on Azure: by connection strings that are typed, or as whoever is signed in. An emulator stands in for
Azure, and takes for a token of Microsoft Entra its own, which only its owner can read. Nothing leaves this machine.
"""

import importlib.util
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import beyond
import nbformat
import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError
from devices import NAME
from executed import Kernel, errors, only_sentence, read, said, tagged
from leaks import leaks, traces
from processes import unable
from test_forms import beside, fields, labelled, press_enter, saved, type_in

from dpsx_helpers import access, certificates, enrollments, forms, registry, targets, tutorial
from dpsx_helpers.certificates import Pair
from dpsx_helpers.display import View
from dpsx_helpers.emulator import running
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import NotReadable, Stop

pytest_plugins = ["kit"]

DPS, HUB = "my-dps.azure-devices-provisioning.net", "my-hub.azure-devices.net"
KEY = "c2VjcmV0LWtleQ=="
SCOPES = {"https://azure-devices-provisioning.net/.default", "https://iothubs.azure.net/.default"}


def connection_string(host: str, key: str = KEY) -> str:
    return f"HostName={host};SharedAccessKeyName=owner;SharedAccessKey={key}"


@pytest.fixture
def on_azure(work: Path) -> Path:
    tutorial.enter("target", "azure")
    return work


# --- what may be entered ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "owner", "words"),
    [
        ("x", "dps", r"The connection string of the provisioning service \(entered\) is not one with HostName"),
        (f"HostName={DPS}", "dps", "copy it again from Shared access policies of your provisioning service"),
        (connection_string(DPS).replace("SharedAccessKeyName=owner;", ""), "dps", "is not one with"),
        (connection_string(HUB), "dps", "is that of an IoT hub"),
        (connection_string(DPS), "hub", "is that of a provisioning service"),
        (
            connection_string(HUB, "c2VjcmV0LWtleQ"),
            "hub",
            "key in the connection string of the IoT hub .* is not whole",
        ),
        (connection_string(HUB, "not base64 at all"), "hub", "is not whole"),
    ],
)
def test_a_connection_string_that_cannot_be_used_is_refused_and_not_shown(text: str, owner: str, words: str) -> None:
    with pytest.raises(Stop, match=words) as stopped:
        access.check_connection_string(text, owner)
    assert "SharedAccessKey=" not in str(stopped.value)


def test_blanks_around_a_connection_string_are_of_a_copy() -> None:
    text = connection_string(DPS)
    assert access.check_connection_string(f"  {text.replace(';', '; ')}; \n", "dps") == text
    assert access.check_connection_string(connection_string("127.0.0.1:8443"), "hub").endswith(KEY)


@pytest.mark.parametrize(("text", "owner"), [(DPS, "dps"), (HUB.upper(), "hub"), ("127.0.0.1:8443", "hub")])
def test_a_host_is_taken_in_small_letters(text: str, owner: str) -> None:
    assert access.check_service_host(f" {text} ", owner) == text.lower()


@pytest.mark.parametrize(
    ("text", "owner", "words"),
    [
        ("https://my-dps.azure-devices-provisioning.net", "dps", "is not of the right form"),
        ("global.azure-devices-provisioning.net", "dps", "is not of the right form"),
        ("", "hub", f"shows one like {HUB}"),
        (HUB, "dps", "is that of an IoT hub"),
        (DPS, "hub", "is that of a provisioning service"),
        ("my-hub.azure-devices.cn", "hub", "national cloud"),
        ("my-dps.azure-devices-provisioning.us", "dps", "DPSX_SERVICE_ENDPOINT and DPSX_IOTHUB_HOST"),
    ],
)
def test_a_host_that_cannot_be_one_is_refused(text: str, owner: str, words: str) -> None:
    with pytest.raises(Stop, match=words):
        access.check_service_host(text, owner)


def test_a_connection_string_in_the_place_of_a_host_is_not_shown() -> None:
    with pytest.raises(Stop, match=r"is a connection string, .*: delete it there, .* secret fields") as stopped:
        access.check_service_host(connection_string(DPS), "dps")
    assert KEY not in str(stopped.value)


@pytest.mark.parametrize("host", ["my-dps.azure-devices-provisioning.net", "My-DPS.azure-devices-provisioning.us"])
def test_a_service_endpoint_for_devices_gets_a_hint(host: str) -> None:
    assert targets.check_host(host) == host
    hint = targets.host_hint(host)
    assert hint is not None
    assert f"else take global.azure-devices-provisioning.{host[-2:].replace('et', 'net')}" in hint


@pytest.mark.parametrize("host", [targets.GLOBAL_ENDPOINT, "global.azure-devices-provisioning.cn", "127.0.0.1"])
def test_the_usual_endpoints_get_none(host: str) -> None:
    assert targets.host_hint(host) is None


@pytest.mark.parametrize("host", ["my-hub.azure-devices.net", "My-Hub.azure-devices.us"])
def test_a_hub_is_no_endpoint_for_a_device_that_is_not_provisioned(host: str) -> None:
    with pytest.raises(Stop, match=r"is the address of an IoT hub.* use global\.azure-devices-provisioning\.net"):
        targets.check_host(host)


# --- forms ------------------------------------------------------------------------------------------------------------

DPS_FIELD, HUB_FIELD = "Connection string of the provisioning service", "Connection string of the IoT hub"


def test_on_the_emulator_there_is_nothing_to_enter(emulated: Target) -> None:
    for shown in (forms.service_access(emulated), forms.sign_in(emulated)):
        assert isinstance(shown, View)
        assert shown.text.startswith("Nothing to enter")


def test_typed_connection_strings_stay_in_memory_alone(on_azure: Path) -> None:
    form = forms.service_access(targets.current())
    assert isinstance(form, forms.Form)
    assert "part stays yours" in form.status
    for label, host in ((DPS_FIELD, DPS), (HUB_FIELD, HUB)):
        assert not targets.current().service
        labelled(form, label).value = connection_string(host)
        assert labelled(form, label).value == ""
        assert f"✔ Taken, for {host}; it is kept in this kernel&#x27;s memory only." in beside(form, label)
    assert "✔ Both are known in this kernel" in form.status
    target = targets.for_operator()
    assert (target.service_endpoint, target.hubs, target.credential) == (DPS, (HUB,), None)
    assert target.dps_connection_string == connection_string(DPS)
    assert repr(target.dps_connection_string) == tutorial.MASK
    assert traces(saved(form) + f"{target!r} {tutorial._entered!r}".encode(), KEY) == []
    assert leaks(on_azure, [KEY]) == []
    tutorial.enter("target", "emulator")
    tutorial.enter("target", "azure")
    assert not targets.current().service, "they belong to the target for which they were entered"


def test_a_wrong_connection_string_is_told_beside_its_field_and_nothing_is_taken(on_azure: Path) -> None:
    form = forms.service_access(targets.current())
    assert isinstance(form, forms.Form)
    labelled(form, DPS_FIELD).value = connection_string(HUB)
    assert labelled(form, DPS_FIELD).value == ""
    assert "✘ The connection string of the provisioning service (entered) is that of an IoT hub" in beside(
        form, DPS_FIELD
    )
    assert KEY not in beside(form, DPS_FIELD)
    assert targets.current().dps_connection_string is None
    labelled(form, HUB_FIELD).value = connection_string(HUB)
    assert f"{DPS_FIELD} is still missing." in form.status


def test_the_hosts_for_who_is_signed_in_are_remembered(on_azure: Path, credential: "Credential") -> None:
    form = forms.sign_in(targets.current())
    assert isinstance(form, forms.Form)
    endpoint, hub = fields(form)
    type_in(endpoint, DPS)
    assert not targets.current().service
    type_in(hub, HUB)
    press_enter(hub)
    assert "✔ In use: Service endpoint" in form.status
    assert "az login" in form.status
    target = targets.for_operator()
    assert (target.service_endpoint, target.hubs, target.credential) == (DPS, (HUB,), credential)
    assert tutorial.recall()["service_endpoint"] == DPS
    assert ("Service endpoint", DPS) in target.overview()


# --- as who is signed in ----------------------------------------------------------------------------------------------


class Credential:
    """What azure.identity's credentials are for those who use them. `scopes`: what tokens were asked for."""

    def __init__(self, token: str) -> None:
        self._token = token
        self.scopes: list[str] = []

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        self.scopes += scopes
        return AccessToken(self._token, int(time.time()) + 3600)


class NobodySignedIn(Credential):
    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        raise ClientAuthenticationError(
            "DefaultAzureCredential failed to retrieve a token from the included credentials."
        )


@pytest.fixture
def credential(monkeypatch: pytest.MonkeyPatch) -> Credential:
    one = Credential("a token")
    monkeypatch.setattr(access, "credential", lambda: one)
    return one


@pytest.fixture
def stand_in(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An emulator that the tutorial takes for Azure, without connection strings; the token that it takes."""
    with beyond.azure(tmp_path) as known:
        for name, value in keyless(known).items():
            monkeypatch.setenv(name, value)
        yield token_of(tmp_path)


def keyless(known: dict[str, str]) -> dict[str, str]:
    """The environment of beyond.azure for somebody who signs in."""
    hosts = dict(
        zip(("DPSX_SERVICE_ENDPOINT", "DPSX_IOTHUB_HOST"), map(known.get, targets.CONNECTION_STRINGS), strict=True)
    )
    named = {name: access.host_name(str(text)) for name, text in hosts.items()}
    return {name: value for name, value in known.items() if name not in targets.CONNECTION_STRINGS} | named


def token_of(folder: Path) -> str:
    facts = running.read(folder / "stand-in")
    assert facts is not None
    return facts.token


def test_whoever_is_signed_in_can_enroll_list_and_delete_by_a_token(
    stand_in: str, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed_in = Credential(stand_in)
    monkeypatch.setattr(access, "credential", lambda: signed_in)
    target = targets.for_operator()
    assert (target.dps_connection_string, target.iothub_connection_string) == (None, None)
    assert stand_in not in repr(target)
    assert enrollments.save(target, pair.certificate_file).registration_id == NAME
    assert [entry.registration_id for entry in enrollments.list_all(target)] == [NAME]
    assert registry.list_all(target) == []
    assert registry.get(target, NAME) is None
    assert enrollments.delete(target, NAME)
    assert set(signed_in.scopes) == SCOPES


def test_who_lacks_a_role_is_told_which(stand_in: str, credential: Credential) -> None:
    target = targets.current()
    with pytest.raises(Stop, match=r"refused the request \(401\).* lacks a role, such as Device Provisioning Service"):
        enrollments.list_all(target)
    with pytest.raises(Stop, match=r"Your hub refused the request \(401\).* lacks the role IoT Hub Data Contributor"):
        registry.list_all(target)
    assert set(credential.scopes) == SCOPES


def test_where_nobody_is_signed_in_the_sentence_says_az_login(stand_in: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "credential", lambda: NobodySignedIn(""))
    target = targets.current()
    for call, whose in ((enrollments.list_all, "provisioning service"), (registry.list_all, "hub")):
        with pytest.raises(Stop, match=rf"^Nobody could be signed in for the {whose} .* run `az login`"):
            call(target)


def test_a_host_that_does_not_answer_points_at_the_doctor(
    on_azure: Path, credential: Credential, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DPSX_SERVICE_ENDPOINT", "127.0.0.1:9")
    monkeypatch.setenv("DPSX_IOTHUB_HOST", "127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(Stop, match=r"The hub does not answer .* `dpsx doctor --target azure`"):
        registry.list_all(targets.current())


def test_with_one_host_alone_the_other_service_stays_the_portals(
    on_azure: Path, credential: Credential, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DPSX_SERVICE_ENDPOINT", DPS)
    target = targets.current()
    assert not target.service
    with pytest.raises(NotReadable, match="Without IOTHUB_CONNECTION_STRING"):
        registry.list_all(target)


def test_without_the_package_the_sentence_names_its_lock(on_azure: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "azure.identity", None)
    monkeypatch.setenv("DPSX_SERVICE_ENDPOINT", DPS)
    access.credential.cache_clear()
    with pytest.raises(Stop, match=r"takes the package azure-identity, .*pip install -r requirements-azure\.txt"):
        targets.current()


def test_connection_strings_win_and_nobody_is_signed_in(on_azure: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "credential", lambda: pytest.fail("nobody is to be signed in"))
    monkeypatch.setenv("DPSX_SERVICE_ENDPOINT", "other-dps.azure-devices-provisioning.net")
    monkeypatch.setenv("DPS_CONNECTION_STRING", connection_string(DPS))
    monkeypatch.setenv("IOTHUB_CONNECTION_STRING", connection_string(HUB))
    assert targets.current().service_endpoint == DPS


#: An `az` that is signed in, or is not: https://learn.microsoft.com/cli/azure/account#az-account-get-access-token
_SIGNED_IN = """#!/bin/sh
printf '%s\\n' "$*" >> "$RECORD"
printf '{"accessToken": "%s", "expires_on": %s}' "$TOKEN" "$(($(date +%s) + 3600))"
"""
_SIGNED_OUT = """#!/bin/sh
echo "ERROR: Please run 'az login' to setup account." >&2
exit 1
"""


@pytest.fixture
def az(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The real azure-identity, which asks no other than this `az` (on other machines than this it asks nobody)."""
    if importlib.util.find_spec("azure.identity") is None:
        unable("azure-identity is not installed: see requirements-dev.txt")
    program = tmp_path / "bin" / "az"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "AzureCliCredential")
    monkeypatch.setenv("RECORD", str(tmp_path / "asked.txt"))
    access.credential.cache_clear()
    yield program
    access.credential.cache_clear()


def becomes(program: Path, script: str) -> None:
    program.write_text(script)
    program.chmod(0o755)


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for az is a shell script")
def test_azure_identity_itself_signs_in_by_az(
    az: Path, stand_in: str, pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    becomes(az, _SIGNED_IN)
    monkeypatch.setenv("TOKEN", stand_in)
    target = targets.for_operator()
    assert targets.current().credential is target.credential, "one for the whole kernel, as it keeps its tokens"
    enrollments.save(target, pair.certificate_file)
    assert enrollments.delete(target, NAME)
    assert registry.list_all(target) == []
    asked = (tmp_path / "asked.txt").read_text()
    assert all(
        f"account get-access-token --output json --resource {scope.removesuffix('/.default')}" in asked
        for scope in SCOPES
    )


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for az is a shell script")
def test_azure_identity_itself_says_when_nobody_is_signed_in(az: Path, stand_in: str) -> None:
    becomes(az, _SIGNED_OUT)
    target = targets.current()
    for call in (enrollments.list_all, registry.list_all):
        with pytest.raises(Stop, match=r"^Nobody could be signed in for the .* run `az login` in a terminal"):
            call(target)


# --- notebooks --------------------------------------------------------------------------------------------------------

#: A credential that is signed in already, in the place of azure-identity's.
_IDENTITY = """
import os, time
from azure.core.credentials import AccessToken

class DefaultAzureCredential:
    def get_token(self, *scopes, **options):
        with open(os.environ["SCOPES"], "a") as file:
            print(*scopes, file=file)
        return AccessToken(os.environ["TOKEN"], int(time.time()) + 3600)
"""
#: What a front end sends when somebody types both connection strings into the form.
_HANDS = """
import os as _os
import ipywidgets as _widgets
_typed = {"provisioning": _os.environ["TYPED_DPS"], "hub": _os.environ["TYPED_HUB"]}
for _field in [w for w in list(_widgets.widget._instances.values()) if isinstance(w, _widgets.Password)]:
    for _name, _text in _typed.items():
        if _field.description.startswith("Connection string") and _name in _field.description.lower():
            _field.set_state({"value": _text})
"""
#: … and chooses to clean up, with the tick that Azure takes.
CLEAN_UP = """
import ipywidgets as _widgets
for _field in list(_widgets.widget._instances.values()):
    if isinstance(_field, _widgets.RadioButtons):
        _field.set_state({"index": 1})
    if isinstance(_field, _widgets.Checkbox) and "delete" in _field.description:
        _field.set_state({"value": True})
"""


def with_hands(number: int, *typing: tuple[str, str]) -> Any:
    """The notebook with a cell after each of these tags, in which somebody types."""
    notebook = read(number)
    for tag, what in typing:
        place = notebook.cells.index(tagged(notebook, tag))
        notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(what))  # type: ignore[no-untyped-call]
    return notebook


def test_who_is_signed_in_enrolls_looks_and_cleans_up_in_the_notebooks(tmp_path: Path) -> None:
    package = tmp_path / "packages" / "azure" / "identity"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(_IDENTITY)
    path = os.pathsep.join([str(package.parents[1]), os.environ.get("PYTHONPATH", "")])
    with beyond.azure(tmp_path) as known:
        own = {"TOKEN": token_of(tmp_path), "SCOPES": str(tmp_path / "scopes.txt"), "PYTHONPATH": path}
        inputs = {"DPSX_REGISTRATION_ID": NAME, "DPSX_PASS_PHRASE": "pass phrase"}
        with beyond.desk(tmp_path / "desk", **keyless(known), **own, **inputs) as learner:
            notebooks = {number: read(number) for number in (2, 3, 4, 6)} | {5: with_hands(5, ("form", CLEAN_UP))}
            ran = {number: learner.run(notebooks[number]) for number in (2, 3, 4, 6, 5)}
    for number, notebook in ran.items():
        assert errors(notebook) == [], number
    assert said(tagged(ran[3], "save")).strip() == f"{NAME} is enrolled."
    assert f"✔ {NAME} is in the hub, STATUS enabled" in said(tagged(ran[4], "check"))
    assert said(tagged(ran[6], "check")).startswith("✔")
    assert "The enrollment is deleted." in said(tagged(ran[5], "delete-enrollment"))
    assert "The device is deleted." in said(tagged(ran[5], "delete-device"))
    assert set((tmp_path / "scopes.txt").read_text().split()) == SCOPES
    assert leaks(tmp_path / "desk", [own["TOKEN"]]) == []


def test_what_is_typed_lets_the_cells_act_and_only_the_tutorials_own_is_deleted_after_a_tick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with beyond.azure(tmp_path) as known:
        typed = {"TYPED_DPS": known["DPS_CONNECTION_STRING"], "TYPED_HUB": known["IOTHUB_CONNECTION_STRING"]}
        bare = {name: value for name, value in known.items() if name not in targets.CONNECTION_STRINGS}
        inputs = {"DPSX_REGISTRATION_ID": NAME, "DPSX_PASS_PHRASE": "pass phrase"}
        with beyond.desk(tmp_path / "desk", **bare, **typed, **inputs) as learner:
            for name, value in {**known, "DPSX_WORK_DIR": str(tmp_path)}.items():
                monkeypatch.setenv(name, value)
            monkeypatch.setattr(tutorial, "_entered", {})
            operator = targets.for_operator()
            (tmp_path / "other").mkdir()
            other = certificates.create("somebody-else", "pass phrase", tmp_path / "other", key_type="ec-p256")
            enrollments.save(operator, other.certificate_file)
            ran = {2: learner.run(read(2))}
            plain = learner.run(read(3))
            ran |= {3: learner.run(with_hands(3, ("access", _HANDS))), 4: learner.run(read(4))}
            asked = learner.run(with_hands(5, ("access", _HANDS)))
            still = {entry.registration_id for entry in enrollments.list_all(operator)}
            ran[5] = learner.run(with_hands(5, ("access", _HANDS), ("form", CLEAN_UP)))
            left = {entry.registration_id for entry in enrollments.list_all(operator)}
            devices = {device.device_id for device in registry.list_all(operator)}
    for number, notebook in (*ran.items(), (5, asked)):
        assert errors(notebook) == [], number
    assert said(tagged(plain, "save")) == "", "without access the portal's button is the learner's to press"
    assert said(tagged(ran[3], "save")).strip() == f"{NAME} is enrolled."
    assert "✔ Both are known in this kernel" not in said(tagged(ran[3], "access")), "a form shows none of its values"
    assert "Nothing is deleted by the cells below." in said(tagged(asked, "facts"))
    assert still == {NAME, "somebody-else"}
    assert (left, devices) == ({"somebody-else"}, set())
    assert "The enrollment is deleted." in said(tagged(ran[5], "delete-enrollment"))
    keys = [text.partition("SharedAccessKey=")[2] for text in typed.values()]
    assert all(len(key) > 10 for key in keys)
    assert leaks(tmp_path / "desk", keys) == []


def test_a_notebook_for_the_operator_shows_the_form_and_goes_on_when_it_is_filled_in(tmp_path: Path) -> None:
    with beyond.azure(tmp_path) as known:
        typed = {"TYPED_DPS": known["DPS_CONNECTION_STRING"], "TYPED_HUB": known["IOTHUB_CONNECTION_STRING"]}
        bare = {name: value for name, value in known.items() if name not in targets.CONNECTION_STRINGS}
        work = tmp_path / "work"
        work.mkdir()
        environment = {**bare, **typed, "DPSX_WORK_DIR": str(work), "DPSX_PASS_PHRASE": "pass phrase"}
        kernel = Kernel(tmp_path / "kernel", **environment)
        try:
            stopped = kernel.execute(read(6))
            again = read(6)
            again.cells.insert(0, nbformat.v4.new_code_cell(_HANDS))  # type: ignore[no-untyped-call]
            ran = kernel.execute(again)
        finally:
            kernel.end()
        nbformat.write(stopped, work / "stopped.ipynb")
        nbformat.write(ran, work / "ran.ipynb")
    assert "enter them in the form above" in only_sentence(stopped)
    assert "[form: Access for the operator (optional)]" in said(tagged(stopped, "map"))
    assert errors(ran) == []
    assert said(tagged(ran, "check")).startswith("✔")
    assert leaks(work, [text.partition("SharedAccessKey=")[2] for text in typed.values()]) == []
