"""The notebooks: their form, the quickstart's facts in them, and what a learner meets in running them."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import beyond
import nbformat
import pytest
from devices import NAME, PASS_PHRASE, odd_pair
from executed import (
    BY_NUMBER,
    FOLDER,
    QUICKSTART,
    TRACEBACK,
    Kernel,
    cells,
    errors,
    files_with,
    lines,
    nine_tenths,
    only_sentence,
    read,
    said,
    tagged,
    words,
)
from processes import free_host

import dpsx_helpers
from benchmarks.setting import device_program
from dpsx_helpers import certificates, enrollments, targets, tutorial
from dpsx_helpers.emulator import Emulator, EmulatorError
from dpsx_helpers.targets import GLOBAL_ENDPOINT, Target

pytest_plugins = ["kit"]

CANARY = "canary-7f3a91c5e8d2"
LOG_LINE = (
    "RegistrationStage(RequestAndResponseOperation): Op will transition into polling after interval 2.  Setting timer."
)


# --- Restart & Run All ------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where everything goes that the notebooks leave; the emulator that they start ends with the test."""
    (tmp_path / "work").mkdir()
    yield tmp_path
    with suppress(EmulatorError):
        Emulator.attach(tmp_path / "work" / "emulator").stop()


def run_all(folder: Path, order: list[Path], at: Callable[[int], None]) -> dict[str, list[Any]]:
    """Each notebook in a kernel of its own, with CANARY as the pass phrase; what each number's runs looked like.

    `at` is called after each run with its place in the order.
    """
    executed: dict[str, list[Any]] = {}
    environment = {"DPSX_WORK_DIR": str(folder / "work"), "DPSX_PASS_PHRASE": CANARY}
    kernels = [Kernel(folder / "kernel-00", **environment)]
    try:
        for place, path in enumerate(order):
            if place + 1 < len(order):
                kernels.append(Kernel(folder / f"kernel-{place + 1:02}", **environment))
            notebook = kernels[0].execute(nbformat.read(path, as_version=4))
            kernels.pop(0).end()
            nbformat.write(notebook, folder / f"executed-{place:02}-{path.name[:2]}.ipynb")
            assert errors(notebook) == [], path.name
            assert TRACEBACK not in "".join(map(said, notebook.cells)), path.name
            executed.setdefault(path.name[:2], []).append(notebook)
            at(place)
    finally:
        for kernel in kernels:
            kernel.end()
    return executed


def _thumbprint(notebook: Any) -> str:
    return re.findall(r"\b[0-9A-F]{64}\b", said(tagged(notebook, "certificate")).replace(":", ""))[0]


def _look_at_what_is_left(folder: Path) -> None:
    work = folder / "work"
    assert not (work / certificates.KEY_FILE).exists()
    assert not (work / certificates.CERTIFICATE_FILE).exists()
    with pytest.raises(EmulatorError):
        Emulator.attach(work / "emulator")
    for number in ("00", "02", "03", "04", "05"):
        for file in folder.glob(f"executed-*-{number}.ipynb"):
            forms = nbformat.read(file, as_version=4).metadata.widgets["application/vnd.jupyter.widget-state+json"]
            assert forms["state"], "the state of the forms is saved"
    assert files_with(CANARY, folder) == []


def _look_at_the_preparations(executed: dict[str, list[Any]]) -> None:
    for notebook in executed["00"]:
        assert "the target is the emulator, and it runs at 127." in said(tagged(notebook, "check"))
    for notebook in executed["01"]:
        assert "answers on port 8883" in said(tagged(notebook, "check"))
    for notebook in executed["02"]:
        assert f"===> CN={NAME} <===" in said(tagged(notebook, "certificate"))
        assert "BEGIN ENCRYPTED PRIVATE KEY" in said(tagged(notebook, "create"))
        assert "does not open with this pass phrase" in said(tagged(notebook, "break"))
        assert "the key opens with your pass phrase" in said(tagged(notebook, "check"))
    for notebook in executed["03"]:
        assert re.search(rf"REGISTRATION ID .*\n +{NAME} +enabled", said(tagged(notebook, "list")))


def _look_at_the_device(notebook: Any) -> None:
    assert tutorial.MASK in said(tagged(notebook, "set-pass-phrase"))
    ran = said(tagged(notebook, "run"))
    four = rf"The complete registration result:\n{NAME}\n127\.[\d.]+\ninitialAssignment\nnull\n"
    assert re.search(re.escape(LOG_LINE) + "\n" + four, ran), ran
    again = said(tagged(notebook, "device-code-end"))
    assert re.search(four, again)
    for text in (ran, again):
        for number in range(1, 11):
            assert f"\nsending message #{number}\n" in text
            assert f"\ndone sending message #{number}\n" in text
    assert "broker unavailable" in said(tagged(notebook, "break"))
    assert re.search(rf"\n +{NAME} +enabled", said(tagged(notebook, "devices")))
    assert "test wind speed 10" in said(tagged(notebook, "messages"))
    assert '"telemetryInterval": 5' in said(tagged(notebook, "desired"))
    checked = said(tagged(notebook, "check"))
    assert "✔ 10 messages were acknowledged by the hub\n✔ 10 are stored there" in checked


def _look_at_the_clean_up(notebook: Any) -> None:
    assert "The enrollment is deleted." in said(tagged(notebook, "delete-enrollment"))
    assert "acknowledged one more message" in said(tagged(notebook, "still-there"))
    assert "The device is deleted." in said(tagged(notebook, "delete-device"))
    assert "Credentials invalid" in said(tagged(notebook, "refused"))
    assert certificates.KEY_FILE in said(tagged(notebook, "delete-files"))
    assert "The emulator is stopped." in said(tagged(notebook, "stop"))
    assert "✔ the emulator is stopped" in said(tagged(notebook, "check"))


# --- the learner's mistakes -------------------------------------------------------------------------------------------

# As after Restart Kernel, with other variables in the environment; and a network in which only this machine is found.
_AFRESH = """
import os, socket
from dpsx_helpers import tutorial

for name in {names!r}:
    os.environ.pop(name, None)
os.environ.update({environment!r})
tutorial._entered.clear()

real = getattr(socket.getaddrinfo, "real", socket.getaddrinfo)

def nowhere_but_here(host, *arguments, **options):
    if str(host).startswith("127.") or host == "localhost":
        return real(host, *arguments, **options)
    with open({lookups!r}, "a") as record:
        print(host, file=record)
    raise socket.gaierror(-2, "Name or service not known")

nowhere_but_here.real = real
socket.getaddrinfo = nowhere_but_here
"""


class Desk:
    """Where one learner works: a kernel that was just restarted, as far as a notebook can tell, and a work folder."""

    def __init__(self, kernel: Kernel, work: Path) -> None:
        self._kernel = kernel
        self._work = work
        self._record = work.parent / "lookups.txt"

    def run(self, number: int, **environment: str) -> Any:
        """Restart & Run All in this folder with these variables set; the notebook with its outputs."""
        names = [*tutorial.INPUTS.values(), *tutorial.VARIABLES, *targets.TRUST]
        environment["DPSX_WORK_DIR"] = str(self._work)
        afresh = _AFRESH.format(names=names, environment=environment, lookups=str(self._record))
        notebook = read(number)
        first = f"get_ipython().reset(new_session=False)\nexec({afresh!r}, {{}})"
        notebook.cells.insert(0, nbformat.v4.new_code_cell(first))
        return self._kernel.execute(notebook)

    def looked_up(self) -> set[str]:
        """The names of other machines that were looked for."""
        return set(self._record.read_text().split()) if self._record.exists() else set()


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    started = Kernel(tmp_path_factory.mktemp("desks") / "kernel")
    yield started
    started.end()


@pytest.fixture
def desk(work: Path, kernel: Kernel) -> Desk:
    return Desk(kernel, work)


def nothing(work: Path) -> None:
    """Leave the pair as it is."""


def lose_certificate(work: Path) -> None:
    (work / certificates.CERTIFICATE_FILE).unlink()


def garble_certificate(work: Path) -> None:
    file = work / certificates.CERTIFICATE_FILE
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], "AAAA" + lines[1][4:], *lines[2:]]))


def mix_up_keys(work: Path) -> None:
    odd_pair(work).key_file.replace(work / certificates.KEY_FILE)


def lose_notes(work: Path) -> None:
    (work / "tutorial.json").write_text("{")


MISTAKES: dict[str, tuple[Callable[[Path], None], dict[str, str], dict[int, str]]] = {
    "a wrong pass phrase": (
        nothing,
        {"DPSX_PASS_PHRASE": "5678"},
        {
            2: r"does not open with this pass phrase",
            4: r"does not open with the pass phrase known here .*: enter the one it was made with",
        },
    ),
    "no certificate file": (
        lose_certificate,
        {},
        {
            2: r"^python-device\.pem is missing in .*: bring it back, or choose existing='replace'",
            3: r"^There is no certificate file .*python-device\.pem: check its path, or make the pair",
            4: r"^There is no certificate file .*python-device\.pem: check its path, or make the pair in notebook 02",
        },
    ),
    "a garbled certificate": (
        garble_certificate,
        {},
        dict.fromkeys((2, 3, 4), r"python-device\.pem is damaged .*: copy or make it again"),
    ),
    "the key of another certificate": (
        mix_up_keys,
        {},
        dict.fromkeys((2, 4), r"does not belong to the certificate .*: give the two files that were made together"),
    ),
    "another registration ID than the certificate's name": (
        nothing,
        {"DPSX_REGISTRATION_ID": "Python-device-02"},
        {
            2: r"names 'Python-device-01', not Python-device-02: use that name as registration ID",
            3: r"CN=Python-device-01 but your registration ID is Python-device-02, .*: create a certificate for that",
            4: r"CN=Python-device-01 but DPS_X509_REGISTRATION_ID is Python-device-02, .*: create a certificate for",
        },
    ),
    "a blank ID scope": (
        nothing,
        {"DPSX_ID_SCOPE": " "},
        dict.fromkeys((0, 4), r"^The ID scope \(from .* DPSX_ID_SCOPE\) is blank: copy it from the Overview page"),
    ),
    "an ID scope with other signs": (
        nothing,
        {"DPSX_ID_SCOPE": "<ID scope>"},
        {4: r'^The ID scope "<ID scope>" .* has something other than letters and digits in it: copy it again'},
    ),
    "an address instead of a host name": (
        nothing,
        {"DPSX_PROVISIONING_HOST": "https://global.example.net/"},
        {4: r"is not a bare host name, .*: use global\.example\.net instead and run this cell again"},
    ),
    "a host at which no emulator runs": (
        nothing,
        {"DPSX_PROVISIONING_HOST": free_host()},
        {4: r"^Nothing listens at 127\..* on port 8883: the emulator is not running there, so unset"},
    ),
    "a target that does not exist": (
        nothing,
        {"DPSX_TARGET": "the cloud"},
        {0: r'is neither "emulator" nor "azure": set DPSX_TARGET to one of the two'},
    ),
    "damaged notes": (lose_notes, {}, dict.fromkeys((0, 5), r"tutorial\.json is damaged .*: delete that file and run")),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_stops_the_notebook_with_one_sentence_that_says_what_to_do(
    mistake: str, emulated: Target, pair: certificates.Pair, work: Path, desk: Desk
) -> None:
    spoil, environment, remedies = MISTAKES[mistake]
    spoil(work)
    for number, remedy in remedies.items():
        stopped = desk.run(number, **environment)
        assert re.search(remedy, only_sentence(stopped)), f"{number:02}: {only_sentence(stopped)}"
    assert desk.looked_up() == set()
    assert emulated.emulator is not None
    assert emulated.emulator.messages() == [], "the mistake is told before the device sends"


def test_a_device_that_is_not_enrolled_or_has_a_new_certificate_is_told_so_by_the_run_cell(
    emulated: Target, pair: certificates.Pair, work: Path, desk: Desk
) -> None:
    assert "is not enrolled: enroll it in notebook 03 and run this cell again" in only_sentence(desk.run(4))
    enrollments.save(emulated, pair.certificate_file)
    certificates.create(NAME, PASS_PHRASE, work, key_type="ec-p256", existing="replace")
    stopped = desk.run(4)
    assert "is enrolled with another certificate than the one on disk: save the enrollment" in only_sentence(stopped)
    assert only_sentence(stopped) in said(tagged(stopped, "run"))


def test_a_wrong_id_scope_is_named_by_the_run_cell(emulated: Target, pair: certificates.Pair, desk: Desk) -> None:
    stopped = desk.run(4, DPSX_ID_SCOPE="0ne00000000")
    assert re.search(r'^DPS knows no ID scope "0ne00000000" .*: copy the ID scope from', only_sentence(stopped))
    assert only_sentence(stopped) in said(tagged(stopped, "run"))


# --- on Azure, with nothing entered yet -------------------------------------------------------------------------------

_NAMELESS = r"^No registration ID is known yet: enter it in the registration ID form of notebook 02 .* run this cell"
_STOPS = {
    2: _NAMELESS,
    3: _NAMELESS,
    4: r"^The ID scope of .* is not known yet: copy it .* into the connection form of notebook 04 .* run this cell",
    5: r"python-device\.key\.pem is gone .*: go back to notebook 02",
}


def test_start_here_runs_to_its_end_on_azure_and_contacts_nobody(desk: Desk, work: Path) -> None:
    notebook = desk.run(0, DPSX_TARGET="azure")
    assert errors(notebook) == []
    assert "not entered yet" in said(tagged(notebook, "start"))
    assert "the target is your Azure subscription" in said(tagged(notebook, "check"))
    assert desk.looked_up() == set()
    assert not (work / "emulator").exists()


def test_prepare_the_environment_says_in_one_sentence_that_azure_is_out_of_reach(desk: Desk) -> None:
    notebook = desk.run(1, DPSX_TARGET="azure")
    assert re.search(r"cannot be looked up: check the host name and this machine's network", only_sentence(notebook))
    assert "azure-iot-device" in said(tagged(notebook, "versions"))
    assert desk.looked_up() == {GLOBAL_ENDPOINT}


@pytest.mark.parametrize("number", _STOPS)
def test_on_azure_a_notebook_stops_at_the_first_value_that_is_missing(number: int, desk: Desk, work: Path) -> None:
    assert re.search(_STOPS[number], sentence := only_sentence(desk.run(number, DPSX_TARGET="azure"))), sentence
    assert desk.looked_up() == set()
    assert not (work / "emulator").exists()


def test_a_device_with_everything_but_a_network_is_told_before_it_runs(
    pair: certificates.Pair, work: Path, desk: Desk
) -> None:
    known = {"DPSX_ID_SCOPE": "0ne00ABC123", "DPSX_REGISTRATION_ID": NAME, "DPSX_PASS_PHRASE": PASS_PHRASE}
    stopped = desk.run(4, DPSX_TARGET="azure", **known)
    assert re.search(rf"^The name {GLOBAL_ENDPOINT} cannot be looked up: check the host name", only_sentence(stopped))
    assert desk.looked_up() == {GLOBAL_ENDPOINT}
    assert said(tagged(stopped, "run")) == ""


def test_on_azure_with_both_connection_strings_the_cells_act_and_nothing_is_deleted_unasked(tmp_path: Path) -> None:
    with (
        beyond.azure(tmp_path) as known,
        beyond.desk(tmp_path, **known, DPSX_REGISTRATION_ID=NAME, DPSX_PASS_PHRASE=CANARY) as learner,
    ):
        executed = {number: learner.run(read(number)) for number in (2, 3, 4, 5)}
        for number, notebook in executed.items():
            assert errors(notebook) == [], number
        assert not (learner.work / "emulator").exists()
        assert files_with(CANARY, tmp_path) == []
    assert said(tagged(executed[3], "save")).strip() == f"{NAME} is enrolled."
    assert f"{NAME} is enrolled and enabled" in said(tagged(executed[3], "check"))
    assert "initialAssignment" in said(tagged(executed[4], "run"))
    checked = said(tagged(executed[4], "check"))
    assert f"✔ {NAME} is in the hub, STATUS enabled" in checked
    assert "☐ Does `az iot hub monitor-events" in checked
    assert "Nothing is deleted by the cells below." in said(tagged(executed[5], "facts"))
    assert re.search(rf"\n +{NAME} +enabled", said(tagged(executed[5], "list")))
    assert "everything is kept" in said(tagged(executed[5], "check"))


# --- the device's program in a terminal -------------------------------------------------------------------------------


def test_the_device_code_runs_unchanged_as_a_script_with_the_six_variables(
    emulated: Target, pair: certificates.Pair, tmp_path: Path
) -> None:
    enrollments.save(emulated, pair.certificate_file)
    program = device_program()
    assert program.startswith(tagged(read(4), "device-code").source)
    assert program.endswith("asyncio.run(main())\n")
    script = tmp_path / "device.py"
    script.write_text(program, encoding="utf-8")
    six = {name: value for name, value in targets.environment(emulated).items() if name != "X509_PASS_PHRASE"}
    assert len(six) == 6
    alone = {"PATH": os.environ["PATH"], "SSL_CERT_FILE": str(emulated.bundle_file), **six}
    done = subprocess.run(
        [sys.executable, script], env=alone, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(
        f"The complete registration result:\n{NAME}\n{emulated.host}\ninitialAssignment\nnull\n"
    )
    acknowledged = re.findall(r"^done sending message #(\d+)$", done.stdout, re.MULTILINE)
    assert sorted(map(int, acknowledged)) == list(range(1, 11))
    bodies = {message["body"] for message in emulated.messages(NAME)}
    assert bodies == {f"test wind speed {number}" for number in range(1, 11)}


# --- the whole tutorial. The two tests of this kind are the longest: kept apart, so that two workers take them --------


def test_the_notebooks_run_in_their_order_and_once_more_in_the_same_folder(folder: Path) -> None:
    key_file = folder / "work" / certificates.KEY_FILE

    def look_at_the_key(place: int) -> None:
        if place % 6 == 4:
            assert certificates.open_key(key_file, CANARY)
            with pytest.raises(certificates.CertificateError):
                certificates.open_key(key_file, PASS_PHRASE)
            assert files_with(CANARY, folder) == []
        if place % 6 == 5:
            _look_at_what_is_left(folder)

    executed = run_all(folder, [BY_NUMBER[number] for number in QUICKSTART] * 2, look_at_the_key)
    _look_at_the_preparations(executed)
    thumbprints = [_thumbprint(notebook) for notebook in executed["02"]]
    assert thumbprints[0] != thumbprints[1], "the pair is made anew after it was deleted"
    for notebook in executed["03"]:
        assert said(tagged(notebook, "save")).strip() == f"{NAME} is enrolled."
        assert NAME not in said(tagged(notebook, "devices")), "enrolling creates no device"
    for notebook in executed["04"]:
        _look_at_the_device(notebook)
    for notebook in executed["05"]:
        _look_at_the_clean_up(notebook)


# --- the form of each notebook ----------------------------------------------------------------------------------------

each_notebook = pytest.mark.parametrize("number", BY_NUMBER, ids=lambda number: BY_NUMBER[number].stem)


def prose(notebook: Any) -> str:
    """The text cells, without what stands between fences."""
    texts = "\n\n".join(cell.source for cell in cells(notebook, "markdown"))
    return re.sub(r"^```.*?^```$", "", texts, flags=re.DOTALL | re.MULTILINE)


def trees(notebook: Any) -> list[ast.Module]:
    """The code cells as Python understands them; a magic or a shell line would be a SyntaxError."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST
    return [compile(cell.source, "<cell>", "exec", flags) for cell in cells(notebook, "code")]


def imports(tree: ast.Module) -> set[str]:
    """What a cell imports, with dots."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_there_are_eleven_notebooks_in_the_order_of_the_map() -> None:
    assert [path.stem for path in BY_NUMBER.values()] == [name for name, _ in tutorial.STEPS]


@each_notebook
def test_the_headings_are_one_title_and_an_outline_without_gaps(number: int) -> None:
    notebook = read(number)
    assert re.match(r"# \S", notebook.cells[0].source)
    levels = [len(marks) for marks in re.findall(r"^(#+) ", prose(notebook), re.MULTILINE)]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels)), levels


@each_notebook
def test_a_notebook_says_at_its_top_what_it_is_for_and_how_long_it_takes(number: int) -> None:
    (line,) = re.findall(r"^\*\*What you do:\*\*.*$", read(number).cells[0].source, re.MULTILINE)
    assert re.search(r" · \*\*What you learn:\*\* .+ · \*\*What you need:\*\* .+ · \*\*\d+ minutes\*\*$", line)


@each_notebook
def test_a_notebook_ends_with_a_check_and_what_happened_and_what_comes_next(number: int) -> None:
    notebook = read(number)
    check = tagged(notebook, "check")
    assert re.fullmatch(r"checks\.\w+\(.*\)", check.source)
    assert notebook.cells.index(check) >= len(notebook.cells) * 2 / 3
    after = "\n".join(cell.source for cell in notebook.cells[notebook.cells.index(check) :])
    assert re.search(r"^## What happened\n.*^## Next\n.*^\*\*References:\*\* \[", after, re.DOTALL | re.MULTILINE)
    assert "**References:**" in notebook.cells[-1].source


@each_notebook
def test_the_map_marks_the_notebook_that_it_stands_in(number: int) -> None:
    assert tagged(read(number), "map").source.splitlines()[-1] == f"views.tutorial_map({number})"


@each_notebook
def test_a_notebook_is_short_and_so_are_nine_tenths_of_its_cells(number: int) -> None:
    notebook = read(number)
    assert len(notebook.cells) <= 35
    texts, code = [words(cell.source) for cell in cells(notebook, "markdown")], []
    for cell in cells(notebook, "code"):
        if "device-code" not in cell.metadata.get("tags", ()):
            code.append(lines(cell.source))
    assert sum(count <= 6 for count in code) >= 0.9 * len(code), f"lines of the code cells: {code}"
    assert sum(count <= 120 for count in texts) >= 0.9 * len(texts), f"words of the text cells: {texts}"


def test_the_measures_are_those_of_the_best_teaching_repositories(capsys: pytest.CaptureFixture[str]) -> None:
    """`pytest -n 0 -k measures` prints them.

    What they are held against was measured in 2026 on scikit-learn-mooc (INRIA), pythia-foundations (ProjectPythia),
    numpy-tutorials, dask-tutorial and others: 2 to 3 lines in the middle code cell and at most 10 in nine of ten, at
    most 165 words in nine of ten text cells, about one text cell for each code cell, at most 1,800 words in a notebook.
    """
    rows = ["notebook                          cells  code  lines: half  90 %  words: half  90 %    all"]
    everywhere = []
    for number, path in BY_NUMBER.items():
        texts = [words(cell.source) for cell in cells(read(number), "markdown")]
        code = [lines(cell.source) for cell in cells(read(number), "code")]
        everywhere += code
        count = len(texts) + len(code)
        middles, most = (median(code), median(texts)), (nine_tenths(code), nine_tenths(texts))
        rows.append(
            f"{path.stem:<32}{count:>7}{len(code):>6}{middles[0]:>13.1f}{most[0]:>6}{middles[1]:>13.1f}{most[1]:>6}"
            f"{sum(texts):>7}"
        )
        assert most[0] <= 10, path.stem
        assert most[1] <= 120, path.stem
        assert len(texts) >= len(code) * 0.8, path.stem
        assert 500 <= sum(texts) <= 1500, path.stem
    assert 2 <= median(everywhere) <= 3
    with capsys.disabled():
        print("", *rows, sep="\n")


@each_notebook
def test_a_cell_is_plain_python_that_imports_what_it_names_and_asks_nothing(number: int) -> None:
    for tree in trees(read(number)):
        assert not [name for name in imports(tree) if name.endswith(".*")]
        helpers = {name for name in imports(tree) if name.startswith("dpsx_helpers")}
        assert helpers <= {f"dpsx_helpers.{name}" for name in dpsx_helpers.__all__}, "never from the emulator"
        called = [
            node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        ]
        assert {"input", "get_ipython", "exec", "eval"}.isdisjoint(called)


@each_notebook
def test_nest_asyncio_is_only_there_for_the_last_cell_of_the_device(number: int) -> None:
    where = [place for place, tree in enumerate(trees(read(number))) if "nest_asyncio" in imports(tree)]
    last = len(cells(read(number), "code")) - 1
    assert where in ([last], [last - 1]) if number == 4 else where == []


@each_notebook
def test_links_lead_to_notebooks_that_exist_and_pictures_are_put_in_words(number: int) -> None:
    text = "\n".join(cell.source for cell in cells(read(number), "markdown"))
    links = re.findall(r"\]\((?!https://)([^)#]+)", text)
    assert [link for link in links if not (FOLDER / link).is_file()] == []
    after = BY_NUMBER[(number + 1) % len(BY_NUMBER)].name
    assert after in links, "Next leads on"
    pictures = re.findall(r"!\[([^\]]*)\]\(", text) + re.findall(r"<img\b(?![^>]*\balt=\"[^\"]+\")", text)
    assert all(len(alternative) > 10 for alternative in pictures)


@each_notebook
def test_a_notebook_is_for_python_3_and_holds_no_output(number: int) -> None:
    notebook = read(number)
    assert notebook.metadata.kernelspec.name == "python3"
    assert "widgets" not in notebook.metadata
    assert [cell for cell in cells(notebook, "code") if cell.outputs or cell.execution_count] == []


def test_the_calls_of_the_sdk_stand_in_the_cells() -> None:
    code = "\n".join(cell.source for cell in cells(read(4), "code"))
    for call in (
        "from azure.iot.device import",
        "X509(",
        "ProvisioningDeviceClient.create_from_x509_certificate(",
        ".register(",
        "IoTHubDeviceClient.create_from_x509_certificate(",
        ".connect(",
        ".send_message(",
        ".shutdown(",
    ):
        assert call in code


# --- the facts of the quickstart --------------------------------------------------------------------------------------

_OPENSSL = (
    "openssl req -outform PEM -x509 -sha256 -newkey rsa:4096 -keyout ./python-device.key.pem -out ./python-device.pem"
    ' -days 365 -extensions usr_cert -subj "'
)
FACTS = {
    "the prerequisites": (
        "https://learn.microsoft.com/azure/iot-dps/quick-create-simulated-device-x509",
        "https://learn.microsoft.com/azure/iot-dps/about-iot-dps",
        "https://learn.microsoft.com/azure/iot-dps/quick-setup-auto-provision",
        "https://azure.microsoft.com/free/",
        "active subscription",
        "Python 3.5.3",
        "Linked IoT hubs",
    ),
    "preparing the environment": (
        "https://git-scm.com/download/",
        "Git Bash",
        "\ngit clone https://github.com/Azure/azure-iot-sdk-python.git --recursive\n",
        "https://github.com/Azure/azure-iot-sdk-python",
        "provision_x509.py",
        "samples/async-hub-scenarios",
    ),
    "the certificate": (
        f'\nwinpty {_OPENSSL}//CN=Python-device-01"\n',
        f'\n{_OPENSSL}/CN=Python-device-01"\n',
        "On Windows, in Git Bash",
        "On Linux",
        "testing only",
        "365 days",
        "expires",
        "Enter PEM pass phrase:",
        "Verifying - Enter PEM pass phrase:",
        "`1234`",
        "second slash",
        "self-signed",
        "python-device.pem",
        "python-device.key.pem",
        "certutil python-device.pem",
    ),
    "the enrollment": (
        "individual enrollment",
        "enrollment group",
        "https://learn.microsoft.com/azure/iot-dps/concepts-service#enrollment",
        "All resources",
        "Manage enrollments",
        "Individual enrollments",
        "Add individual enrollment",
        "Mechanism",
        "X.509",
        "Primary certificate .pem or .cer file",
        "IoT hub that is linked to the service",
        "Initial device twin state",
        "**Save**",
        "REGISTRATION ID",
    ),
    "the device": (
        "`PROVISIONING_HOST`",
        "`PROVISIONING_IDSCOPE`",
        "`DPS_X509_REGISTRATION_ID`",
        "`X509_CERT_FILE`",
        "`X509_KEY_FILE`",
        "`PASS_PHRASE`",
        "X509_PASS_PHRASE",
        "global.azure-devices-provisioning.net",
        "**Overview**",
        "ID Scope",
        "Global device endpoint",
        "export PROVISIONING_IDSCOPE=",
        "must be the common name of the certificate",
        "asyncio.run(main())",
        "Python 3.7",
        "test wind speed",
        LOG_LINE,
        "The complete registration result",
        "initialAssignment",
        "sending message #",
        "done sending message #",
        "IoT devices",
        "Explorers",
        "**STATUS** *enabled*",
        "**Refresh**",
        "https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-device-twins",
    ),
    "cleaning up": (
        "continue",
        "Close the device client",
        "**Delete**",
        "Tick the box beside the registration ID",
        "Tick the box beside the device ID",
        "https://learn.microsoft.com/azure/iot-dps/quick-enroll-device-x509",
    ),
}


@pytest.mark.parametrize("part", FACTS)
def test_the_notebooks_tell_all_facts_of_the_quickstart(part: str) -> None:
    text = "\n\n".join(cell.source for number in QUICKSTART for cell in read(number).cells)
    assert [fact for fact in FACTS[part] if fact not in text] == []


def test_the_name_in_the_quickstart_is_the_one_that_the_cells_use() -> None:
    assert (NAME, PASS_PHRASE) == ("Python-device-01", "1234")
    assert certificates.CERTIFICATE_FILE in read(3).cells[3].source


# --- the whole tutorial, each step twice ------------------------------------------------------------------------------


def test_each_notebook_runs_twice_in_a_row(folder: Path) -> None:
    executed = run_all(folder, [BY_NUMBER[number] for number in QUICKSTART for _ in range(2)], lambda place: None)
    _look_at_what_is_left(folder)
    _look_at_the_preparations(executed)
    thumbprints = [_thumbprint(notebook) for notebook in executed["02"]]
    assert thumbprints[0] == thumbprints[1], "the pair is reused"
    saved = [said(tagged(notebook, "save")).strip() for notebook in executed["03"]]
    again = f"{NAME} is already enrolled with this certificate and these settings."
    assert saved == [f"{NAME} is enrolled.", again]
    for notebook in executed["04"]:
        _look_at_the_device(notebook)
    first, second = executed["05"]
    _look_at_the_clean_up(first)
    assert "There was no enrollment left." in said(tagged(second, "delete-enrollment"))
    assert "There is no device to try this with." in said(tagged(second, "still-there"))
    assert "The emulator is stopped." in said(tagged(second, "stop"))
