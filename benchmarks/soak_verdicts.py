"""What a soak has to show in the end, as verdicts on what was recorded. No I/O, no clock."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import linear_regression

from dpsx_helpers.emulator import refusals
from dpsx_helpers.emulator.refusals import Refusal

KB = 1000
# kB a minute. 200 devices make 6,200 messages and 200 connections of a minute: 16 bytes, or half a kilobyte, that
# each of them left behind would be found. A lower bound would take for a leak the single step that a busy machine
# makes: what has to wait takes more room at once, and the C library keeps it. One of 290 kB was seen; that is 44 kB a
# minute of ten.
STEEPEST = 100.0
_SHORTEST = 120.0  # seconds that are to be judged for memory: less says nothing
# SQLite starts its WAL anew after 1,000 pages of 4 KiB (https://www.sqlite.org/pragma.html#pragma_wal_autocheckpoint),
# when nobody is just reading.
LARGEST_WAL = 8_000 * KB
LARGEST_LOG = 2 * 5_000 * KB + 64 * KB  # the log and the one before it; the size is looked at before a line is written
_SHOWN = 5  # examples of what is wrong


@dataclass(frozen=True)
class Verdict:
    """`good` is None where there was too little to judge."""

    what: str
    good: bool | None
    said: str

    def __str__(self) -> str:
        return f"{ {True: '✔', False: '✘', None: '–'}[self.good] } {self.what}: {self.said}"


@dataclass
class Ledger:
    """What one device did, and what it saw. Numbers of messages begin with 1, as those of reports do.

    `tries`: how often each message can have reached the hub at most. `versions`: of the reported properties, as the hub
    named it for a report. `desired`: (version, value) of the desired properties, in the order they came. `commands`:
    how often each cloud-to-device message came, `unmarked`: how often without the mark of one that was sent before.
    `ends`: how connections were ended.
    """

    name: str
    tries: dict[int, int] = field(default_factory=dict)
    acknowledged: set[int] = field(default_factory=set)
    reports: int = 0
    confirmed: set[int] = field(default_factory=set)
    versions: dict[int, int] = field(default_factory=dict)
    desired: list[tuple[int, int]] = field(default_factory=list)
    commands: Counter[str] = field(default_factory=Counter)
    unmarked: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    trouble: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Sample:
    """The emulator at one moment. Seconds since the begin; bytes."""

    at: float
    memory: int
    descriptors: int
    threads: int
    wal: int
    log: int


@dataclass(frozen=True)
class TwinSeen:
    """A twin as the hub keeps it: value and version of either section. A value that was never set is 0."""

    reported: int
    reported_version: int
    desired: int
    desired_version: int


def body(name: str, number: int) -> bytes:
    """What a device sends under that number; some 150 bytes."""
    return f"{name} says {number} ".ljust(120 + number % 60, ".").encode()


def _read(text: bytes) -> tuple[str, int] | None:
    """Who says what number in a body; None when it is not as it was sent."""
    match = re.fullmatch(rb"(\S+) says ([0-9]+) \.*", text)
    if match is None:
        return None
    found = match[1].decode(), int(match[2])
    return found if body(*found) == text else None


def _verdict(what: str, faults: Iterable[str], well: str) -> Verdict:
    found = list(faults)
    if not found:
        return Verdict(what, True, well)
    more = f" … and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return Verdict(what, False, f"{'; '.join(found[:_SHOWN])}{more} ({well})")


# --- messages ---------------------------------------------------------------------------------------------------------


def messages(ledgers: Sequence[Ledger], stored: Iterable[tuple[str, bytes]]) -> Verdict:
    """What is stored (device, body) against what was sent: each acknowledged message once, or as often as it was sent.

    One that was never acknowledged may be there, or not.
    """
    copies: Counter[tuple[str, int]] = Counter()
    faults = []
    for device, text in stored:
        seen = _read(text)
        if seen is None or seen[0] != device:
            faults.append(f"{device} never sent {text[:40]!r}")
        else:
            copies[seen] += 1
    known = {ledger.name: ledger for ledger in ledgers}
    for ledger in ledgers:
        missing = [number for number in sorted(ledger.acknowledged) if not copies[ledger.name, number]]
        faults += [f"message {number} of {ledger.name} was acknowledged and is lost" for number in missing]
    for (name, number), count in copies.items():
        tries = known[name].tries.get(number, 0) if name in known else 0
        if count > tries:
            faults.append(f"message {number} of {name} was sent {tries} times and is stored {count} times")
    sent = sum(len(ledger.tries) for ledger in ledgers)
    acknowledged = sum(len(ledger.acknowledged) for ledger in ledgers)
    again = sum(tries > 1 for ledger in ledgers for tries in ledger.tries.values())
    twice = sum(count > 1 for count in copies.values())
    if sent and not acknowledged:
        faults.append("no message was acknowledged")
    well = (
        f"{sent:,} sent, {acknowledged:,} acknowledged, {copies.total():,} stored; {again:,} sent again for want of a "
        f"PUBACK, {twice:,} of them stored more than once"
    )
    return _verdict("messages", faults, well)


def commands(
    ledgers: Sequence[Ledger], queued: Mapping[str, str], waiting: Mapping[str, str], unsure: Collection[str] = ()
) -> Verdict:
    """Cloud-to-device messages, message ID to device: each was received by that device, or still waits for it.

    `unsure`: those of which the service side was not told that they are queued.
    """
    faults = []
    received = {ledger.name: ledger.commands for ledger in ledgers}
    for number, device in queued.items():
        if number not in unsure and not received[device][number] and waiting.get(number) != device:
            faults.append(f"cloud-to-device message {number} for {device} is neither received nor waiting")
    for ledger in ledgers:
        strange = [number for number in ledger.commands if queued.get(number) != ledger.name]
        faults += [f"{ledger.name} received {number}, which was never sent to it" for number in strange]
        again = [number for number, count in ledger.unmarked.items() if count > 1]
        faults += [f"{ledger.name} received {number} again, and not marked as that" for number in again]
    arrived = sum(len(ledger.commands) for ledger in ledgers)
    twice = sum(count > 1 for ledger in ledgers for count in ledger.commands.values())
    well = f"{len(queued):,} sent, {arrived:,} received, {len(waiting):,} waiting; {twice:,} received more than once"
    return _verdict("cloud-to-device messages", faults, well)


# --- twins and methods ------------------------------------------------------------------------------------------------


def twins(ledgers: Sequence[Ledger], patched: Mapping[str, int], kept: Mapping[str, TwinSeen]) -> Verdict:
    """Each device reports 1, 2, 3 …; the service sets the desired value to 1, 2, 3 … (`patched`: to which it came).

    Every change raises the version of its section, which begins with 1, by one.
    """
    faults = [fault for ledger in ledgers for fault in _twin_faults(ledger, patched.get(ledger.name, 0), kept)]
    reports, changes = sum(ledger.reports for ledger in ledgers), sum(patched.values())
    told = sum(len(ledger.desired) for ledger in ledgers)
    return _verdict(
        "twins", faults, f"{reports:,} reports, {changes:,} desired changes, seen {told:,} times by devices"
    )


def _twin_faults(ledger: Ledger, patched: int, kept: Mapping[str, TwinSeen]) -> Iterable[str]:
    name, seen = ledger.name, kept.get(ledger.name)
    if seen is None:
        yield f"{name} has no twin"
        return
    sure = max(ledger.confirmed, default=0)
    if not sure <= seen.reported <= ledger.reports:
        yield f"{name} reported {ledger.reports}, confirmed up to {sure}, and {seen.reported} is kept"
    if not 1 + len(ledger.confirmed) <= seen.reported_version <= 1 + ledger.reports:
        count = f"{len(ledger.confirmed)} of {ledger.reports}"
        yield f"{name}'s reported properties have version {seen.reported_version} after {count} confirmed reports"
    if (seen.desired, seen.desired_version) != (patched, patched + 1):
        yield f"{name}'s desired value is {seen.desired} in version {seen.desired_version} after {patched} changes"
    in_order = [ledger.versions[number] for number in sorted(ledger.versions)]
    if len(set(in_order)) < len(in_order) or in_order != sorted(in_order):
        yield f"{name} was told versions of its reports out of order"
    if any(version != value + 1 for version, value in ledger.desired):
        yield f"{name} was told a desired value under the version of another"
    if ledger.desired != sorted(ledger.desired):
        yield f"{name} was told an older desired value after a newer one"


def methods(statuses: Mapping[int, int], wrong: Sequence[str]) -> Verdict:
    """Calls by their HTTP status. 404 is for a device that was just away; `wrong` are answers that are not its own."""
    faults = list(wrong) + [
        f"{count} calls ended with {code}" for code, count in statuses.items() if code not in (200, 404)
    ]
    if statuses and not statuses.get(200):
        faults.append("no call was answered")
    well = f"{statuses.get(200, 0):,} calls answered by the device, {statuses.get(404, 0):,} while it was away"
    return _verdict("direct methods", faults, well)


def service(asked: Mapping[str, int], trouble: Sequence[str]) -> Verdict:
    """What the service side did besides: requests by what they are, and what went wrong with them."""
    return _verdict("service side", trouble, ", ".join(f"{count:,} {what}" for what, count in asked.items()))


def devices(ledgers: Sequence[Ledger]) -> Verdict:
    """No device was refused, or waited in vain; each way to end a connection was taken."""
    ends = sum((ledger.ends for ledger in ledgers), Counter())
    faults = [f"{ledger.name}: {one}" for ledger in ledgers for one in ledger.trouble]
    well = ", ".join(f"{count:,} {how}" for how, count in sorted(ends.items()))
    return _verdict("connections", faults, f"{ends.total():,} ended ({well})")


# --- the emulator's process -------------------------------------------------------------------------------------------


def memory(samples: Sequence[Sample], steepest: float = STEEPEST) -> Verdict:
    """The slope of a line through the second half of the samples: the first is for caches to fill."""
    later = [one for one in samples if samples and one.at >= samples[-1].at / 2]
    if len(later) < 10 or later[-1].at - later[0].at < _SHORTEST:
        return Verdict("memory", None, f"not judged: that takes {2 * _SHORTEST / 60:.0f} minutes at least")
    slope = linear_regression([one.at / 60 for one in later], [one.memory / KB for one in later]).slope
    first, last = samples[0].memory / 1e6, later[-1].memory / 1e6
    said = (
        f"{slope:+.1f} kB a minute through the last {(later[-1].at - later[0].at) / 60:.1f} minutes (bound: "
        f"{steepest:g}); {first:.1f} MB before, {later[0].memory / 1e6:.1f} MB halfway, {last:.1f} MB at the end"
    )
    return Verdict("memory", slope <= steepest, said)


def remains(before: Sample, after: Sample) -> Verdict:
    """Descriptors and threads before the first device came and after the last has gone."""
    faults = [
        f"{now - then:+d} {what}"
        for what, then, now in (
            ("descriptors", before.descriptors, after.descriptors),
            ("threads", before.threads, after.threads),
        )
        if now != then
    ]
    well = f"{before.descriptors} descriptors and {before.threads} threads before, {after.descriptors} and "
    return _verdict("descriptors and threads", faults, f"{well}{after.threads} after")


def wal(samples: Sequence[Sample], left: int) -> Verdict:
    """The database's write-ahead log while devices wrote; `left` bytes of it after the emulator's end."""
    largest = max((one.wal for one in samples), default=0)
    faults = [f"it grew to {largest / 1e6:.1f} MB"] if largest > LARGEST_WAL else []
    faults += [f"{left} bytes are left after the end"] if left else []
    return _verdict("write-ahead log", faults, f"{largest / 1e6:.1f} MB at most (bound: {LARGEST_WAL / 1e6:g})")


def log_size(samples: Sequence[Sample], rotations: int) -> Verdict:
    largest = max((one.log for one in samples), default=0)
    faults = [f"it grew to {largest / 1e6:.1f} MB"] if largest > LARGEST_LOG else []
    well = f"{largest / 1e6:.1f} MB at most (bound: {LARGEST_LOG / 1e6:.1f}), begun anew {rotations} times"
    return _verdict("log", faults, well)


# What a soak does on purpose: a device throws itself out, the service calls one that is just away, and the socket under
# Microsoft's client is shut, which then complains.
_EXPECTED: tuple[Refusal, ...] = (refusals.EVICTED, refusals.DEVICE_NOT_ONLINE)
_PATTERNS = [
    *(re.compile(re.sub(r"\\\{\w+\\\}", ".*", re.escape(row.when))) for row in _EXPECTED),
    re.compile(r"! TLS: the connection broke \(tlsv1 alert decode error\)"),
]
_LINE = re.compile(r"\d\d:\d\d:\d\d\.\d{3} (?P<level>[A-Z]+) +\S+ +(?P<said>.*)")


def unexpected(line: str) -> bool:
    """Whether a line of the log tells of more than what a soak does on purpose."""
    match = _LINE.fullmatch(line)
    if match is None:
        return bool(line.strip())  # the traceback of a fault
    if match["level"] == "INFO":
        return False
    return match["level"] != "WARNING" or not any(pattern.search(match["said"]) for pattern in _PATTERNS)


def warnings(lines: int, faults: Sequence[str]) -> Verdict:
    """`faults`: the unexpected ones of so many lines."""
    faults = list(faults) if lines else ["the log is empty"]
    return _verdict("warnings", [one[:200] for one in faults], f"{lines:,} lines read")
