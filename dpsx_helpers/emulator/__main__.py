"""`python -m dpsx_helpers.emulator run | env | status | stop | reset | messages`."""

import argparse
import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from dpsx_helpers import emulator
from dpsx_helpers.emulator import dps, refusals, running, server, tls
from dpsx_helpers.errors import LearnerError

NOT_RUNNING = 3


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status is what it returns. 2 is argparse's own, for arguments that make no sense."""
    options = _parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if callable(reconfigure := getattr(stream, "reconfigure", None)):
            reconfigure(errors="backslashreplace")  # a console that lacks a sign shows its number
    try:
        options.state_dir = (options.state_dir or _default_state_dir()).absolute()
        status: int = options.command(options)
        return status
    except (LearnerError, server.StartError) as error:
        print(error, file=sys.stderr)
        _fail_in_shell(options)
        return 1
    except KeyboardInterrupt:  # before there was anything to tidy up
        return 0
    except BrokenPipeError:  # the reader of our output has gone
        sys.stdout = None
        return 0
    except OSError as error:
        print(f"{error.strerror} ({error.filename}): mend that, or name another --state-dir.", file=sys.stderr)
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
        server.Options(
            state_dir=options.state_dir,
            host=options.host,
            next_free_host=options.next_free_host,
            mqtt_port=options.mqtt_port,
            https_port=options.https_port,
            id_scope=options.id_scope,
            hubs=options.hubs,
            progress=options.assign,
            not_enrolled=options.not_enrolled,
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
            print(f"export {name}={shlex.quote(value)}")
        elif options.shell == "powershell":
            quoted = value.replace("'", "''")
            print(f"$env:{name} = '{quoted}'")
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
            "hubs": list(facts.hubs.values()), "pid": facts.pid, "startedBy": facts.started_by,
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
    emulator.reset(options.state_dir)
    return 0


def _messages(options: argparse.Namespace) -> int:
    for message in emulator.messages(options.state_dir, options.device):
        if options.json:
            print(json.dumps(message))
        else:
            body = message["body"]
            print(message["enqueuedTimeUtc"], message["deviceId"], body if body.isprintable() else repr(body))
    return 0


def _not_yet(what: str) -> Callable[[argparse.Namespace], int]:
    def refuse(_: argparse.Namespace) -> int:
        print(f"{what} is not emulated in this version: see docs/scope.md.", file=sys.stderr)
        return 2

    return refuse


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
    add("reset", _reset, "delete enrollments, registrations, devices and messages")
    messages = add("messages", _messages, "show what devices have sent")
    messages.add_argument("device", nargs="?", metavar="DEVICE", help="only of this device")
    messages.add_argument("--json", action="store_true", help="one JSON object a line")
    send = add("send", _not_yet("Sending cloud-to-device messages"), "send to a device (not emulated yet)")
    send.add_argument("device", metavar="DEVICE")
    send.add_argument("text", metavar="TEXT")
    fault = add("fault", _not_yet("Switching on faults"), "make devices meet a fault (not emulated yet)")
    fault.add_argument("fault", nargs="*")
    return parser


class _Commands:
    """Adds commands that all know --state-dir."""

    def __init__(self, commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
        self._commands = commands

    def __call__(self, name: str, command: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        parser = self._commands.add_parser(name, help=text, description=f"{text[:1].upper()}{text[1:]}.")
        parser.set_defaults(command=command)
        parser.add_argument(
            "--state-dir", type=_directory, metavar="DIR", help="where its state is (the tutorial's work folder)"
        )
        return parser


def _run_arguments(run: argparse.ArgumentParser) -> None:
    run.add_argument("--host", default="127.0.0.1", metavar="ADDR", help="address to listen on (127.0.0.1)")
    run.add_argument("--next-free-host", action="store_true", help="on Linux: the next free 127.x.y.z if it is taken")
    run.add_argument("--mqtt-port", type=_port, default=8883, metavar="PORT", help="MQTT over TLS (8883; 0 = any)")
    run.add_argument("--https-port", type=_port, metavar="PORT", help="data planes (8443, or any if taken; 0 = any)")
    run.add_argument("--ws-port", type=_no_websocket, metavar="PORT", help="MQTT over WebSocket: none in this version")
    run.add_argument("--id-scope", type=_id_scope, metavar="0neXXXXXXXX", help="ID scope of a new state directory")
    run.add_argument("--hubs", type=_hubs, default=1, metavar="0|1", help="linked hubs (1); 2 is not emulated yet")
    run.add_argument("--assign", type=_progress, default=dps.Progress(), metavar="HOW",
                     help="immediately, polls=N or seconds=S (immediately)")  # fmt: skip
    run.add_argument("--not-enrolled", type=_not_enrolled, default=refusals.NOT_ENROLLED, metavar="401002|404201",
                     help="answer to a registration ID that was never enrolled (401002)")  # fmt: skip
    run.add_argument("--rate-limit", action=_NotYet, nargs=0, help="not emulated yet")
    run.add_argument("--idle-hours", type=_hours, default=0.0, metavar="H", help="end after H idle hours (0 = never)")
    run.add_argument("--allow-network", action="store_true", help="listen on an address that others can reach")
    run.add_argument("--started-by", choices=("run", "notebook"), default="run", help=argparse.SUPPRESS)


class _NotYet(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.error(f"{self.option_strings[0]} is not emulated in this version: see docs/scope.md")


def _directory(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("the name of the directory is blank")
    return Path(text)


def _port(text: str) -> int:
    if not re.fullmatch(r"\d{1,5}", text) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: give a number from 0 to 65535")
    return int(text)


def _no_websocket(text: str) -> None:
    if text != "none":
        raise argparse.ArgumentTypeError("MQTT over WebSocket is not emulated in this version: give none")


def _id_scope(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9]{1,64}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no ID scope: give letters and digits, such as 0ne00A1B2C3")
    return text


def _hubs(text: str) -> int:
    if text == "2":
        raise argparse.ArgumentTypeError("two linked hubs are not emulated in this version: see docs/scope.md")
    if text not in ("0", "1"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of hubs: give 0 or 1")
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
        hours = float(text)
    except ValueError:
        hours = -1.0
    if not 0 <= hours <= 24 * 365:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of hours: give 0 (never) or more")
    return hours


if __name__ == "__main__":
    sys.exit(main())
