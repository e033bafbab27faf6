"""The command line: its output in every form, its exit statuses, and one line for each mistake."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from clients import bodies, connected, send
from connections import create
from processes import RunningEmulator, free_host, run_command

VARIABLES = [
    "PROVISIONING_HOST",
    "PROVISIONING_IDSCOPE",
    "SSL_CERT_FILE",
    "NODE_EXTRA_CA_CERTS",
    "REQUESTS_CA_BUNDLE",
    "DPS_CONNECTION_STRING",
    "IOTHUB_CONNECTION_STRING",
]


def env(emulator: RunningEmulator, *arguments: str) -> str:
    done = run_command("env", "--state-dir", str(emulator.state_dir), *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_env_is_evaluated_by_a_shell(emulator: RunningEmulator) -> None:
    script = env(emulator) + "".join(f'printf "%s\\0" "${name}"\n' for name in VARIABLES)
    values = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.split("\0")[:-1]
    assert dict(zip(VARIABLES, values, strict=True)) == emulator.emulator.environment()
    assert values[0] == emulator.host
    for name in ("SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE"):
        assert Path(values[VARIABLES.index(name)]).is_file()


def test_env_as_json_and_for_powershell(emulator: RunningEmulator) -> None:
    expected = emulator.emulator.environment()
    assert json.loads(env(emulator, "--shell", "json")) == expected
    lines = env(emulator, "--shell", "powershell").splitlines()
    assert lines == [f"$env:{name} = '{value}'" for name, value in expected.items()]


@pytest.mark.parametrize("shell", ["sh", "powershell", "json"])
def test_env_with_nothing_running_fails_in_the_shell_too(tmp_path: Path, shell: str) -> None:
    done = run_command("env", "--state-dir", str(tmp_path / "nothing"), "--shell", shell)
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ("false\n" if shell == "sh" else "")
    assert not (tmp_path / "nothing").exists(), "looking leaves nothing behind"
    if shell == "sh":
        assert subprocess.run(["sh", "-c", f'eval "{done.stdout}"'], check=False).returncode != 0


def test_a_state_directory_with_odd_characters_survives_the_shell(
    start: Callable[..., RunningEmulator], tmp_path: Path
) -> None:
    odd = start(state_dir=tmp_path / "it's a $HOME & more")
    script = env(odd) + 'printf %s "$SSL_CERT_FILE"'
    shown = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert shown == str(odd.emulator.overview.bundle_file)


def test_status_tells_people_and_programs(emulator: RunningEmulator, tmp_path: Path) -> None:
    done = run_command("status", "--state-dir", str(emulator.state_dir))
    assert done.returncode == 0
    assert f"Running (process {emulator.process.pid})." in done.stdout
    assert emulator.emulator.overview.id_scope in done.stdout
    told = json.loads(run_command("status", "--json", "--state-dir", str(emulator.state_dir)).stdout)
    assert (told["running"], told["pid"], told["host"]) == (True, emulator.process.pid, emulator.host)
    assert "SharedAccessKey" not in done.stdout + json.dumps(told)
    nothing = run_command("status", "--json", "--state-dir", str(tmp_path))
    assert (nothing.returncode, json.loads(nothing.stdout)["running"]) == (3, False)


def test_messages_one_object_a_line(emulator: RunningEmulator, tmp_path: Path) -> None:
    device = create(emulator, tmp_path, "talker")
    with connected(emulator, device) as client:
        send(client, "wind 7 \N{WHITE SUN WITH RAYS}", "second")
    done = run_command("messages", "talker", "--json", "--state-dir", str(emulator.state_dir))
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert list(first) == ["deviceId", "enqueuedTimeUtc", "properties", "systemProperties", "body"]
    assert (first["deviceId"], first["body"]) == ("talker", "wind 7 \N{WHITE SUN WITH RAYS}")
    assert first["enqueuedTimeUtc"] <= second["enqueuedTimeUtc"]
    assert first["systemProperties"]["connectionDeviceId"] == "talker"
    plain = run_command("messages", "talker", "--state-dir", str(emulator.state_dir)).stdout
    assert plain.splitlines()[1].endswith("talker second")
    assert run_command("messages", "nobody", "--json", "--state-dir", str(emulator.state_dir)).stdout == ""


def test_messages_where_there_is_no_emulator_is_one_line(tmp_path: Path) -> None:
    done = run_command("messages", "--state-dir", str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert "There is no emulator in" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--hubs", "3"], "'3' is no number of hubs: give 0, 1 or 2"),
        (["--hubs", "many"], "'many' is no number of hubs"),
        (["--ws-port", "some"], "'some' is no port"),
        (["--assign", "sometime"], "'sometime' is no assignment policy: give immediately, polls=N or seconds=S"),
        (["--assign", "polls=-1"], "'polls=-1' is no assignment policy"),
        (["--not-enrolled", "403"], "'403' is not one of 401002 and 404201"),
        (["--mqtt-port", "99999"], "'99999' is no port"),
        (["--https-port", "x"], "'x' is no port"),
        (["--id-scope", "0ne 1"], "'0ne 1' is no ID scope"),
        (["--id-scope", ""], "'' is no ID scope"),
        (["--state-dir", ""], "the name of the directory is blank"),
        (["--idle-hours", "-1"], "'-1' is no number of hours"),
        (["--idle-hours", "nan"], "'nan' is no number of hours"),
    ],
)
def test_options_that_make_no_sense_are_refused_with_2(tmp_path: Path, arguments: list[str], words: str) -> None:
    done = run_command("run", "--state-dir", str(tmp_path / "state"), *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr.splitlines()[-1]
    assert not (tmp_path / "state").exists()


def test_the_state_directory_defaults_to_the_tutorials_work_folder(tmp_path: Path) -> None:
    environment = {**os.environ, "DPSX_WORK_DIR": str(tmp_path / "work")}
    told = json.loads(run_command("status", "--json", env=environment).stdout)
    assert told["stateDir"] == str(tmp_path / "work" / "emulator")


def test_outside_the_tutorial_the_state_directory_must_be_named(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "DPSX_WORK_DIR"}
    done = run_command("status", env=environment, cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "--state-dir" in done.stderr
    assert run_command("env", env=environment, cwd=tmp_path).stdout == "false\n", "so that eval fails too"


COMMANDS = ("run", "env", "status", "stop", "reset", "messages", "registrations", "send", "fault", "certificate")


def test_the_help_names_every_command(tmp_path: Path) -> None:
    shown = {line.split()[0] for line in run_command("--help").stdout.splitlines() if line.startswith("    ")}
    assert shown >= set(COMMANDS)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_the_quickstarts_own_certificate_provisions_with_what_env_prints(
    emulator: RunningEmulator, tmp_path: Path
) -> None:
    """The main job outside the notebooks: openssl, `env`, Microsoft's service client, and a program of its own."""
    line = (
        "openssl req -outform PEM -x509 -sha256 -newkey rsa:4096 -keyout ./python-device.key.pem "
        '-out ./python-device.pem -days 365 -extensions usr_cert -subj "/CN=openssl-device" -passout pass:1234'
    )
    program = """
import os
import shlex
from azure.iot.device import IoTHubDeviceClient, ProvisioningDeviceClient, X509
from azure.iot.deviceprovisioning import DeviceProvisioningClient

pem = open("python-device.pem").read()
attestation = {"type": "x509", "x509": {"clientCertificates": {"primary": {"certificate": pem}}}}
service = DeviceProvisioningClient.from_connection_string(os.environ["DPS_CONNECTION_STRING"])
service.enrollment.create_or_update("openssl-device", {"attestation": attestation})
x509 = X509("python-device.pem", "python-device.key.pem", "1234")
device = ProvisioningDeviceClient.create_from_x509_certificate(
    os.environ["PROVISIONING_HOST"], "openssl-device", os.environ["PROVISIONING_IDSCOPE"], x509
)
state = device.register().registration_state
hub = IoTHubDeviceClient.create_from_x509_certificate(x509, state.assigned_hub, state.device_id)
for number in range(10):
    hub.send_message(f"wind {number}")
hub.shutdown()
"""
    (tmp_path / "program.py").write_text(program)
    script = f"set -e\n{line}\n{env(emulator)}\n{shlex.quote(sys.executable)} program.py"
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert bodies(emulator, "openssl-device") == [f"wind {n}" for n in range(10)]


def test_two_emulators_on_the_documented_addresses(start: Callable[..., RunningEmulator], tmp_path: Path) -> None:
    hosts = [free_host(), free_host()]
    pair = [start(host=host, state_dir=tmp_path / host) for host in hosts]
    assert [emulator.emulator.environment()["PROVISIONING_HOST"] for emulator in pair] == hosts
