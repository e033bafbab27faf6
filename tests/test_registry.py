from pathlib import Path

import pytest
from devices import NAME, provision, set_variables

from dpsx_helpers import certificates, enrollments, registry, targets, tutorial
from dpsx_helpers.certificates import Pair
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import NotReadable, Stop

pytest_plugins = ["kit"]


def test_a_provisioned_device_is_found_and_deleted(emulated: Target, pair: Pair) -> None:
    assert registry.get(emulated, NAME) is None
    assert registry.list_all(emulated) == []
    twin = {"properties": {"desired": {"interval": 5}}}
    enrollments.save(emulated, enrollments.EnrollmentRequest(pair.certificate_file, initial_twin=twin))
    set_variables(emulated)
    state = provision().registration_state
    tutorial.remember(device=state.device_id, hub=state.assigned_hub)
    device = registry.get(emulated, NAME)
    assert device is not None
    assert device.status == "enabled"
    thumbprint = certificates.describe(pair.certificate_file).thumbprint_sha256
    assert (device.primary_thumbprint, device.secondary_thumbprint) == (thumbprint, thumbprint)
    assert device.desired["interval"] == 5
    assert [d.device_id for d in registry.list_all(emulated)] == [NAME]
    assert registry.delete(emulated, NAME)
    assert not registry.delete(emulated, NAME)
    assert "device" not in tutorial.recall()
    assert registry.get(emulated, NAME) is None


def test_a_name_is_one_path_segment(emulated: Target) -> None:
    assert registry.get(emulated, "a/b?c#d") is None


def test_on_azure_the_sentence_names_the_portal_page(work: Path) -> None:
    tutorial.enter("target", "azure")
    for call in (registry.list_all, lambda t: registry.get(t, NAME), lambda t: registry.delete(t, NAME)):
        with pytest.raises(NotReadable, match="in the portal"):
            call(targets.current())


def test_a_proxy_for_the_internet_is_not_in_the_way(emulated: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nonexistent")
    assert registry.list_all(emulated) == []


def test_a_stale_key_is_one_sentence_without_the_key(emulated: Target) -> None:
    import dataclasses

    host = str(emulated.iothub_connection_string).split(";")[0]
    stale = f"{host};SharedAccessKeyName=iothubowner;SharedAccessKey=c3RhbGU="
    with pytest.raises(Stop, match="401") as stop:
        registry.list_all(dataclasses.replace(emulated, iothub_connection_string=stale))
    assert "c3RhbGU=" not in str(stop.value)


def test_an_emulator_that_does_not_run_is_one_sentence(work: Path) -> None:
    target = targets.current()
    targets.stop()
    with pytest.raises(Stop, match=r"does not answer .* first cell"):
        registry.list_all(target)
