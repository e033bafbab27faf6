"""`python -m dpsx_helpers.emulator run | env | status | stop | reset | messages | registrations | send | fault |
certificate | students | board`."""

import argparse
import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from dpsx_helpers import emulator, given_files
from dpsx_helpers.emulator import class_commands, dps, faults, refusals, running, server, shells, tls
from dpsx_helpers.emulator.commands import LONGEST_TIME_TO_LIVE
from dpsx_helpers.emulator.faults import KINDS
from dpsx_helpers.emulator.options import Options, StartError
from dpsx_helpers.errors import LearnerError, shown

NOT_RUNNING = 3
NO_PORT = -1


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status is what it returns. 2 is argparse's own, for arguments that make no sense."""
    for stream in (sys.stdout, sys.stderr):
        if callable(reconfigure := getattr(stream, "reconfigure", None)):
            reconfigure(errors="backslashreplace")  # a console that lacks a sign shows its number
    options = _parser().parse_args(arguments)
    try:
        options.state_dir = (options.state_dir or _default_state_dir()).absolute()
        status: int = options.command(options)
        return status
    except (LearnerError, StartError) as error:
        print(error, file=sys.stderr)
        _fail_in_shell(options)
        return 1
    except KeyboardInterrupt:  # before there was anything to tidy up
        return 0
    except BrokenPipeError:  # the reader of our output has gone
        sys.stdout = None
        return 0
    except OSError as error:
        where = f" ({shown(error.filename)})" if error.filename else ""
        print(f"{error.strerror}{where}: mend that, or name another --state-dir.", file=sys.stderr)
        _fail_in_shell(options)
        return 1


def _default_state_dir() -> Path:
    from dpsx_helpers import tutorial

    try:
        return tutorial.work_dir() / "emulator"
    except tutorial.Stop as stop:
        raise LearnerError(f"{stop} Or name the emulator's own directory with --state-dir.") from None


def _run(options: argparse.Namespace) -> int:
    server.serve(
        Options(
            state_dir=options.state_dir,
            host=options.host,
            next_free_host=options.next_free_host,
            mqtt_port=options.mqtt_port,
            https_port=options.https_port,
            id_scope=options.id_scope,
            ws_port=options.ws_port,
            websocket=options.ws_port != NO_PORT,
            hubs=options.hubs,
            progress=options.assign,
            not_enrolled=options.not_enrolled,
            rate_limit=options.rate_limit,
            log_bodies=options.log_bodies,
            idle_hours=options.idle_hours,
            allow_network=options.allow_network,
            started_by=options.started_by,
        )
    )
    return 0


def _env(options: argparse.Namespace) -> int:
    facts = running.read(options.state_dir)
    if facts is None:
        _fail_in_shell(options)
        return _say_not_running(options)
    variables = facts.environment(tls.Files(options.state_dir))
    if options.shell == "json":
        print(json.dumps(variables, indent=1))
    for name, value in variables.items():
        if options.shell == "sh":
            print(shells.sh(name, value))
        elif options.shell == "powershell":
            print(shells.powershell(name, value))
    return 0


def _fail_in_shell(options: argparse.Namespace) -> None:
    """Let `eval "$(… env)"` fail too."""
    if options.command is _env and options.shell == "sh":
        print("false")


def _status(options: argparse.Namespace) -> int:
    facts = running.read(options.state_dir)
    if options.json:
        known = {} if facts is None else {
            "idScope": facts.id_scope, "host": facts.host, "mqttPort": facts.mqtt_port, "httpsPort": facts.https_port,
            "wsPort": facts.ws_port, "hubs": list(facts.hubs.values()), "pid": facts.pid, "startedBy": facts.started_by,
        }  # fmt: skip
        print(json.dumps({"running": facts is not None, "stateDir": str(options.state_dir), **known}, indent=1))
        return 0 if facts else NOT_RUNNING
    if facts is None:
        return _say_not_running(options)
    print(f"Running (process {facts.pid}).\n{facts.overview(tls.Files(options.state_dir))}")
    return 0


def _say_not_running(options: argparse.Namespace) -> int:
    where = shlex.quote(str(options.state_dir))
    print(
        f"No emulator is running on {where}: start it with python -m dpsx_helpers.emulator run --state-dir {where}.",
        file=sys.stderr,
    )
    return NOT_RUNNING


def _stop(options: argparse.Namespace) -> int:
    emulator.stop(options.state_dir)
    return 0


def _reset(options: argparse.Namespace) -> int:
    emulator.reset(options.state_dir, options.device)
    return 0


def _messages(options: argparse.Namespace) -> int:
    for message in emulator.messages(options.state_dir, options.device):
        if options.json:
            print(json.dumps(message))
        else:
            body = message["body"]
            print(message["enqueuedTimeUtc"], message["deviceId"], body if body.isprintable() else repr(body))
    return 0


def _registrations(options: argparse.Namespace) -> int:
    for registration in emulator.registrations(options.state_dir):
        if options.json:
            print(json.dumps(registration))
        else:
            where = registration.get("assignedHub") or registration.get("errorMessage") or "-"
            print(registration["registrationId"], registration["status"], where)
    return 0


def _send(options: argparse.Namespace) -> int:
    running_one = emulator.Emulator.attach(options.state_dir)
    sent = running_one.send(
        options.device,
        options.text,
        properties=dict(options.property),
        message_id=options.message_id,
        expires_in=options.expires_in,
    )
    print(f"Queued for {options.device} as message {sent}.")
    return 0


def _certificate(options: argparse.Namespace) -> int:
    running_one = emulator.Emulator.attach(options.state_dir)
    match options.action, options.name, options.file:
        case "list", None, None:
            for certificate in running_one.ca_certificates():
                print(json.dumps(certificate))
        case "add", str(name), Path() as file:
            running_one.add_ca_certificate(name, _text_of(file))
        case "code", str(name), None:
            print(running_one.verification_code(name))
        case "verify", str(name), Path() as file:
            running_one.verify_ca_certificate(name, _text_of(file))
        case "delete", str(name), None:
            running_one.delete_ca_certificate(name)
        case _:
            print("Give: list | add NAME FILE | code NAME | verify NAME FILE | delete NAME.", file=sys.stderr)
            return 2
    return 0


def _text_of(file: Path) -> str:
    try:
        return given_files.read(file).decode("ascii")
    except UnicodeDecodeError:
        raise LearnerError(f"{shown(file)} is not PEM text: give the certificate as PEM.") from None
    except OSError as error:
        raise LearnerError(
            f"{shown(file)} cannot be read ({error.strerror}): give the file of a certificate."
        ) from None


def _fault(options: argparse.Namespace) -> int:
    alone = options.fault is None and (options.device is not None or options.times is not None)
    if alone or (options.clear and (options.fault or options.device is not None or options.times is not None)):
        print("Give FAULT with its options, or --clear alone, or nothing to list those that are on.", file=sys.stderr)
        return 2
    running_one = emulator.Emulator.attach(options.state_dir)
    if options.clear:
        running_one.clear_faults()
    elif options.fault is None:
        for fault in running_one.faults():
            print(json.dumps(fault))
    else:
        running_one.fault(
            options.fault,
            options.device,
            times=options.times,
            retry_after=options.retry_after,
            seconds=options.seconds,
        )
    return 0


# --- arguments --------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dpsx_helpers.emulator",
        description="An emulator of Azure's Device Provisioning Service and IoT Hub for unmodified device clients.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add = _Commands(commands)
    _run_arguments(add("run", _run, "run in the foreground until Ctrl-C or `stop`"))
    env = add("env", _env, "print the variables that point clients at the running emulator")
    env.add_argument("--shell", choices=("sh", "powershell", "json"), default="sh", help="form of the output (sh)")
    status = add("status", _status, f"exit 0 when it runs, {NOT_RUNNING} when not")
    status.add_argument("--json", action="store_true", help="as one JSON object")
    add("stop", _stop, "end it and wait until its ports are free")
    reset = add("reset", _reset, "delete all that DPS and hubs keep, and the faults; ID scope, keys and students stay")
    reset.add_argument("--device", type=_id, metavar="ID", help="only what carries this registration ID")
    messages = add("messages", _messages, "show what devices have sent")
    messages.add_argument("device", nargs="?", metavar="DEVICE", help="only of this device")
    messages.add_argument("--json", action="store_true", help="one JSON object a line")
    registrations = add("registrations", _registrations, "show what devices have registered, with their payloads")
    registrations.add_argument("--json", action="store_true", help="one JSON object a line")
    send = add("send", _send, "send a cloud-to-device message")
    send.add_argument("device", metavar="DEVICE")
    send.add_argument("text", metavar="TEXT")
    send.add_argument("--property", type=_pair, action="append", default=[], metavar="NAME=VALUE",
                      help="an application property (may be repeated)")  # fmt: skip
    send.add_argument("--message-id", metavar="ID", help="its message ID (a new one)")
    send.add_argument("--expires-in", type=_seconds, metavar="S", help="seconds until it expires undelivered (3600)")
    certificate = add("certificate", _certificate, "CA certificates of DPS for enrollment groups, as in the portal")
    certificate.add_argument("action", choices=("list", "add", "code", "verify", "delete"), metavar="ACTION",
                             help="list; add NAME FILE; code NAME prints a verification code; verify NAME FILE proves "
                             "with a certificate of that common name that the key is yours; delete NAME")  # fmt: skip
    certificate.add_argument("name", nargs="?", metavar="NAME")
    certificate.add_argument("file", nargs="?", type=Path, metavar="FILE", help="a certificate in PEM")
    _fault_arguments(add("fault", _fault, "let devices meet a fault; without a name: list those that are on"))
    class_commands.add_to(add)
    return parser


def _fault_arguments(fault: argparse.ArgumentParser) -> None:
    kinds = "\n".join(f"  {kind.name:<25}{kind.what}" for kind in KINDS.values())
    fault.formatter_class = argparse.RawDescriptionHelpFormatter
    fault.epilog = f"faults:\n{kinds}"
    fault.add_argument("fault", nargs="?", choices=tuple(KINDS), metavar="FAULT", help="one of those below")
    fault.add_argument("--device", type=_id, metavar="ID", help="only for this registration or device ID (every one)")
    fault.add_argument("--times", type=_count, metavar="N", help="only the next N times (until it is cleared)")
    fault.add_argument("--retry-after", type=_count, default=faults.RETRY_AFTER, metavar="S",
                       help=f"seconds that 429 and 500 ask to wait ({faults.RETRY_AFTER})")  # fmt: skip
    fault.add_argument("--seconds", type=_seconds, default=faults.SECONDS, metavar="S",
                       help=f"seconds that slow takes ({faults.SECONDS:g})")  # fmt: skip
    fault.add_argument("--clear", action="store_true", help="switch all faults off")


class _Commands:
    """Adds commands that all know --state-dir."""

    def __init__(self, commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
        self._commands = commands

    def __call__(self, name: str, command: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        parser = self._commands.add_parser(name, help=text, description=f"{text[:1].upper()}{text[1:]}.")
        parser.set_defaults(command=command, say=print)
        parser.add_argument(
            "--state-dir", type=_directory, metavar="DIR", help="where its state is (the tutorial's work folder)"
        )
        return parser


def _run_arguments(run: argparse.ArgumentParser) -> None:
    run.add_argument("--host", default="127.0.0.1", metavar="ADDR", help="address to listen on (127.0.0.1)")
    run.add_argument("--next-free-host", action="store_true", help="on Linux: the next free 127.x.y.z if it is taken")
    run.add_argument("--mqtt-port", type=_port, default=8883, metavar="PORT", help="MQTT over TLS (8883; 0 = any)")
    run.add_argument("--https-port", type=_port, metavar="PORT", help="data planes (8443, or any if taken; 0 = any)")
    run.add_argument("--ws-port", type=_ws_port, metavar="PORT",
                     help="MQTT over WebSocket (443 where it can be bound; 0 = any; none)")  # fmt: skip
    run.add_argument("--id-scope", type=_id_scope, metavar="0neXXXXXXXX", help="ID scope of a new state directory")
    run.add_argument(
        "--hubs", type=_hubs, default=1, metavar="0|1|2", help="linked hubs: none, the address, and localhost (1)"
    )
    run.add_argument("--assign", type=_progress, default=dps.Progress(), metavar="HOW",
                     help="immediately, polls=N or seconds=S (immediately)")  # fmt: skip
    run.add_argument("--not-enrolled", type=_not_enrolled, default=refusals.NOT_ENROLLED, metavar="401002|404201",
                     help="answer to a registration ID that was never enrolled (401002)")  # fmt: skip
    run.add_argument("--rate-limit", action="store_true", help="keep to the limits of DPS: 429 beyond them")
    run.add_argument("--log-bodies", action="store_true", help="write payloads into the log, too")
    run.add_argument("--idle-hours", type=_hours, default=0.0, metavar="H", help="end after H idle hours (0 = never)")
    run.add_argument("--allow-network", action="store_true", help="listen on an address that others can reach")
    run.add_argument("--started-by", choices=("run", "notebook"), default="run", help=argparse.SUPPRESS)


def _directory(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("the name of the directory is blank")
    return Path(text)


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: give a number from 0 to 65535")
    return int(text)


def _ws_port(text: str) -> int:
    return NO_PORT if text == "none" else _port(text)


def _id(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("the ID is blank")
    return text


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is no property: give NAME=VALUE")
    return name, value


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text) if text.isascii() else -1.0
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= LONGEST_TIME_TO_LIVE:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of seconds: give more than 0, at most {LONGEST_TIME_TO_LIVE:.0f}"
        )
    return seconds


def _id_scope(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9]{1,64}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no ID scope: give letters and digits, such as 0ne00A1B2C3")
    return text


def _hubs(text: str) -> int:
    if text not in ("0", "1", "2"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of hubs: give 0, 1 or 2")
    return int(text)


def _progress(text: str) -> dps.Progress:
    try:
        return dps.Progress.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _not_enrolled(text: str) -> refusals.Refusal:
    rows = {"401002": refusals.NOT_ENROLLED, "404201": refusals.NOT_ENROLLED_404}
    if text not in rows:
        raise argparse.ArgumentTypeError(f"{text!r} is not one of 401002 and 404201")
    return rows[text]


def _hours(text: str) -> float:
    try:
        hours = float(text) if text.isascii() else -1.0
    except ValueError:
        hours = -1.0
    if not 0 <= hours <= 24 * 365:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of hours: give 0 (never) or more")
    return hours


if __name__ == "__main__":
    sys.exit(main())
