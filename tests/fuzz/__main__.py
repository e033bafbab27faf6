"""`python -m tests.fuzz`: inputs that are generated, or one again."""

import argparse
import secrets
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "emulator")]

from fuzz.campaign import TURNS, Campaign, on_sockets, replay  # noqa: E402 - what it needs is found from here on

SHARE_ON_SOCKETS = 0.4  # of the packets
SECONDS_ON_SOCKETS = 0.35  # of the time
_SHORT = 2000  # characters that fit on a command line


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--packets", type=int, help="end after so many packets and records, over both halves")
    parser.add_argument("--seconds", type=float, help="end after so many seconds, over both halves (60)")
    parser.add_argument("--seed", help="begin with this, which an earlier run has printed")
    parser.add_argument("--half", choices=("core", "sockets", "both"), default="both", help="in memory, a real process")
    parser.add_argument("--only", choices=TURNS, help="one target in memory")
    parser.add_argument("--unguided", action="store_true", help="change the seeds alone, to compare")
    parser.add_argument(
        "--replay",
        metavar="LINE",
        help="run the input of a finding again: the line that was printed, or a file of such lines",
    )
    options = parser.parse_args()
    if options.replay:
        try:
            return int(any([replay(line, _say) for line in _lines(options.replay)]))  # noqa: C419 - each of them
        except (ValueError, OSError) as error:
            parser.error(f"--replay: {error}")
    seed = options.seed or secrets.token_hex(4)
    print(f"seed {seed}", flush=True)
    return _fuzz(options, seed)


def _fuzz(options: argparse.Namespace, seed: str) -> int:
    packets, seconds = options.packets, options.seconds
    if packets is None and seconds is None:
        seconds = 60.0
    half = "core" if options.only else options.half
    shares = {"core": (1.0, 1.0), "sockets": (1.0, 1.0)}
    if half == "both":
        shares = {
            "core": (1 - SHARE_ON_SOCKETS, 1 - SECONDS_ON_SOCKETS),
            "sockets": (SHARE_ON_SOCKETS, SECONDS_ON_SOCKETS),
        }
    found, corpus = [], []
    if half != "sockets":
        campaign = Campaign(seed, guided=not options.unguided, only=options.only, say=_say)
        try:
            found = campaign.run(**_limits(packets, seconds, shares["core"]))
            corpus = campaign.corpus
        finally:
            campaign.close()
    broken = ""
    if half != "core":
        broken = on_sockets(seed, corpus, **_limits(packets, seconds, shares["sockets"]), say=_say)
    if found:
        path = Path(tempfile.gettempdir()) / f"dpsx-fuzz-{seed}.txt"
        path.write_text("".join(f"{finding.line}\n" for finding in found))
        for finding in found:
            _say(f"\nFOUND {finding.place}\n{finding.report}")
            _say(f"replay: python -m tests.fuzz --replay {finding.line if len(finding.line) < _SHORT else path}")
        _say(f"all of them again: python -m tests.fuzz --replay {path}")
    if broken:
        _say(f"\nFOUND on sockets: {broken}\nrun again: python -m tests.fuzz --half sockets --seed {seed}")
    return 1 if found or broken else 0


def _lines(given: str) -> list[str]:
    """What is to be run again: the line itself, or those of a file."""
    if ":" in given and not Path(given[:200]).is_file():
        return [given]
    return Path(given).read_text().split()


def _limits(packets: int | None, seconds: float | None, share: tuple[float, float]) -> dict[str, float | int | None]:
    return {
        "packets": None if packets is None else int(packets * share[0]),
        "seconds": None if seconds is None else seconds * share[1],
    }


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
