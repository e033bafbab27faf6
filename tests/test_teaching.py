"""What teachers are given: `docs/teaching`, held against notebooks, commands, schema and measurements."""

import json
import re
import shlex
import subprocess
import sys
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from binder_image import ARGUMENTS
from devices import PASS_PHRASE
from executed import BY_NUMBER, cells, lines, read, words
from test_project import pins

from dpsx_helpers import collect, tutorial
from dpsx_helpers.checks.exercises import of_notebook
from dpsx_helpers.diagnosis import mistakes
from dpsx_helpers.targets import Target

pytest_plugins = ["kit"]

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs" / "teaching"
VALUES = DOCS / "kubernetes"
PAGES = sorted(DOCS.glob("*.md"))
SCHEMA = json.loads((ROOT / "tests" / "z2jh" / "values.schema.json").read_text())
FILES = {path.name: yaml.safe_load(path.read_text()) for path in VALUES.glob("*.yaml")}


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    """What stands between this heading of the second level and the next."""
    (found,) = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    return str(found)


def rows(text: str, columns: int) -> list[list[str]]:
    """The rows of the only table with so many columns, without its head."""
    cut = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:1] == "|"]
    table = [row for row in cut if len(row) == columns]
    rules = [number for number, row in enumerate(cut) if set("".join(row)) <= set("-|")]
    assert len(rules) == 1, "one table"
    assert len(table) == len(cut) - 1, "every row has all columns"
    return table[1:]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


# --- the guide --------------------------------------------------------------------------------------------------------

WORDS_A_MINUTE, LINES_A_MINUTE = 200, 20
CELL, PAUSE, EXERCISE = 1 / 6, 1 / 2, 3  # minutes: to run and look; to predict, or to fill in a form; to solve
ROUGH = 4.5  # minutes between the estimate and a notebook's head: for one learner more than for another


def head_minutes(number: int) -> int:
    (minutes,) = re.findall(r"\*\*(\d+) minutes\*\*", read(number).cells[0].source)
    return int(minutes)


def measured() -> dict[str, list[float]]:
    """The table that `benchmarks/learner.py` prints: name -> JupyterLab, kernels, emulator, at most together (all in
    millions of bytes), CPU seconds, run time in seconds.
    """
    (table,) = re.findall(r"<!-- measured -->\n(.*?)<!-- end -->", page("kubernetes.md"), re.DOTALL)
    return {name: list(map(float, values)) for name, *values in rows(table, 7)}


def test_the_minutes_of_each_notebook_are_an_estimate_that_can_be_followed(capsys: pytest.CaptureFixture[str]) -> None:
    """`pytest -n 0 tests/test_teaching.py -k minutes` prints how they come about."""
    seconds = {name: values[-1] for name, values in measured().items()}
    told = ["notebook                             words  lines  cells  pauses  exercises   run s  estimate  head"]
    for number, path in BY_NUMBER.items():
        notebook = read(number)
        text = "\n".join(cell.source for cell in cells(notebook, "markdown"))
        text = re.sub(r"^\*\*References:\*\*.*$", "", text, flags=re.MULTILINE)
        code = [cell.source for cell in cells(notebook, "code")]
        read_words, read_lines = words(text), sum(map(lines, code))
        forms = sum(bool(re.search(r"^(?:\w+ = )?forms\.", source, re.MULTILINE)) for source in code)
        pauses = forms + len(re.findall(r"\*\*(?:Predict|Estimate)\b", text))
        exercises = len(of_notebook(number))
        assert exercises == len(re.findall(r"^### Exercise \d", text, re.MULTILINE))
        estimate = (
            read_words / WORDS_A_MINUTE
            + read_lines / LINES_A_MINUTE
            + len(code) * CELL
            + pauses * PAUSE
            + exercises * EXERCISE
            + seconds[f"{number:02}"] / 60
        )
        head = head_minutes(number)
        told.append(
            f"{path.stem:<36}{read_words:>6}{read_lines:>7}{len(code):>7}{pauses:>8}{exercises:>11}"
            f"{seconds[f'{number:02}']:>8.0f}{estimate:>10.1f}{head:>6}"
        )
        assert head % 5 == 0, path.stem
        assert abs(estimate - head) <= ROUGH, f"{path.stem}: {estimate:.1f} minutes, and it says {head}"
    with capsys.disabled():
        print("", *told, sep="\n")


def test_the_guide_has_a_row_with_goals_and_the_minutes_of_the_head_for_each_notebook() -> None:
    found = rows(section(page("guide.md"), "The notebooks"), 3)
    assert [name for name, _, _ in found] == [f"{name[:2]} {title}" for name, title in tutorial.STEPS]
    assert [int(minutes) for _, minutes, _ in found] == [head_minutes(number) for number in BY_NUMBER]
    assert all(len(goals.split()) >= 10 for _, _, goals in found)
    together = sum(head_minutes(number) for number in range(6))
    assert f"Together they take about {together} minutes." in (ROOT / "README.md").read_text()


@pytest.mark.parametrize(("heading", "length"), [("A lesson of 60 minutes", 60), ("A lesson of three hours", 180)])
def test_a_plan_leaves_no_minute_out_and_names_the_check(heading: str, length: int) -> None:
    plan = rows(section(page("guide.md"), heading), 3)
    spans = [tuple(map(int, minutes.split("–"))) for minutes, _, _ in plan]
    assert spans[0][0] == 0
    assert spans[-1][1] == length
    assert all(before[1] == after[0] for before, after in pairwise(spans))
    assert all(begin < end for begin, end in spans)
    planned = " ".join(what for _, what, _ in plan)
    for number in range(6):
        assert f"{number:02}" in planned
    assert "dpsx check --json" in planned


def test_every_known_mistake_is_in_the_guide_under_its_name_and_with_a_question() -> None:
    (table,) = re.findall(r"^\| card \|.*?(?=\n\n)", page("guide.md"), re.DOTALL | re.MULTILINE)
    found = rows(table, 4)
    assert {int(number): name for number, _, name, _ in found} == {
        number: mistake.name for number, mistake in mistakes.BY_NUMBER.items()
    }
    for _, where, _, question in found:
        assert where
        assert question.endswith("?")


def test_there_is_a_question_with_an_answer_for_every_notebook() -> None:
    found = rows(section(page("guide.md"), "Questions to ask"), 3)
    assert {after for after, _, _ in found} == {f"{number:02}" for number in BY_NUMBER}
    assert all(question.endswith("?") and len(answer.split()) >= 5 for _, question, answer in found)


# --- links and commands -----------------------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """The headings of a page as GitHub links to them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_links_of_a_page_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(((?!https?://)[^)]+)\)", path.read_text(encoding="utf-8"))
    assert links
    for link in links:
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_leads_teachers_to_their_pages() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "](docs/teaching/README.md)" in section(readme, "Teach")
    index = page("README.md")
    for path in PAGES:
        assert path.name == "README.md" or f"]({path.name})" in index, path.name


_COMMAND = re.compile(
    r"(?:^|-- |&& |\$\()(?:[A-Z_]+=\S+ )*(?:\S*/bin/)?(dpsx|python -m dpsx_helpers\.emulator) +([a-z][^\n`'\"$|<>;)]*)",
    re.MULTILINE,
)


def commands(text: str) -> set[tuple[str, ...]]:
    """Every use of our two command lines in the code of a page: the program and what it is given."""
    fenced = re.findall(r"^ *```\w*\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    spans = re.findall(r"`([^`]+)`", re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE))
    lines_of_code = "\n".join(" ".join(part.split("\\\n")) for part in [*fenced, *spans])
    lines_of_code = "\n".join(line.strip() for line in lines_of_code.splitlines())
    return {(program, *shlex.split(rest, comments=True)) for program, rest in _COMMAND.findall(lines_of_code)}


@pytest.mark.parametrize("path", [*PAGES, ROOT / "README.md"], ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_commands_of_a_page_exist(path: Path) -> None:
    found = commands(path.read_text(encoding="utf-8"))
    assert found
    for program, *arguments in found:
        module = "dpsx_helpers" if program == "dpsx" else program.split()[-1]
        line = [sys.executable, "-m", module, *takewhile(lambda part: part[0] != "-", arguments), "--help"]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{path.name}: {program} {' '.join(arguments)}\n{done.stderr}"
        for option in (argument for argument in arguments if argument.startswith("--")):
            assert option in done.stdout, f"{path.name}: {program} {' '.join(arguments)}"


def test_commands_are_found_where_they_stand_in_code_and_at_the_beginning_of_a_command() -> None:
    text = """dpsx for everybody: `.venv/bin/dpsx check --json > a.json`, `helm upgrade dpsx release` and
```sh
python -m dpsx_helpers.emulator stop \\
  --state-dir X   # the end
sh -c 'cd ~/dpsx && A=b /opt/bin/dpsx run'
```"""
    assert commands(text) == {
        ("dpsx", "check", "--json"),
        ("dpsx", "run"),
        ("python -m dpsx_helpers.emulator", "stop", "--state-dir", "X"),
    }


# --- results ----------------------------------------------------------------------------------------------------------


def test_the_table_in_the_page_is_what_collect_prints(tmp_path: Path) -> None:
    done = {
        "ann": (["00", "01", "02", "03", "04", "05", "06", "06.1", "06.2", "06.3"], "21:40"),
        "bea": (["00", "01", "02", "03"], "21:41"),
        "cem": (["00", "01", "02", "03", "04", "05", "08", "08.1", "08.2"], "21:38"),
    }
    steps = []
    for number in BY_NUMBER:
        steps += [f"{number:02}", *(f"{number:02}.{place + 1}" for place in range(len(of_notebook(number))))]
    for name, (passed, at) in done.items():
        states = [{"step": step, "state": "passed" if step in passed else "open"} for step in steps]
        document = {"made": f"2026-11-27T{at}:00+00:00", "target": "emulator", "steps": states}
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    (shown,) = blocks(page("results.md"), "text")
    assert shown.rstrip("\n") == collect.read(tmp_path).as_text()


def test_the_test_cell_for_nbgrader_raises_exactly_while_the_exercise_is_open(emulated: Target, work: Path) -> None:
    from dpsx_helpers import diagnosis, enrollments, rollover

    (cell,) = re.findall(r"<!-- test cell -->\n```python\n(.*?)```", page("results.md"), re.DOTALL)
    with pytest.raises(AssertionError, match="Not yet: there is no enrollment Python-device-03"):
        exec(cell, {})
    (exercise,) = [cell.source for cell in cells(read(6), "markdown") if "### Exercise 1:" in cell.source]
    (solution,) = re.findall(r"```python\n(.*?)```", exercise, re.DOTALL)
    document_for = next(cell.source for cell in cells(read(6), "code") if "def document_for" in cell.source)
    known = {"diagnosis": diagnosis, "rollover": rollover, "target": emulated, "pass_phrase": PASS_PHRASE}
    exec(document_for.partition("\n\n")[0], known)
    with enrollments.service(emulated) as client:
        exec(solution, known | {"client": client})
    exec(cell, {})


# --- Kubernetes -------------------------------------------------------------------------------------------------------


def faults(values: Any) -> list[str]:
    """What the chart's schema has against these values. What is required and not there, Helm takes from the chart."""
    validator = jsonschema.validators.validator_for(SCHEMA)(SCHEMA)
    return [error.message for error in validator.iter_errors(values) if error.validator != "required"]


def together(*names: str) -> Any:
    """The files as Helm puts them on top of each other: mappings are merged, all else is replaced."""

    def merged(below: Any, above: Any) -> Any:
        if not (isinstance(below, dict) and isinstance(above, dict)):
            return above
        return below | {key: merged(below.get(key), value) for key, value in above.items()}

    found: Any = {}
    for name in names:
        found = merged(found, FILES[name])
    return found


def test_the_values_are_what_the_charts_own_schema_allows() -> None:
    assert set(FILES) == {"values.yaml", "values-azure.yaml", "values-keep.yaml"}
    for name, values in FILES.items():
        assert faults(values) == [], name
    for others in (["values-azure.yaml"], ["values-keep.yaml"], ["values-azure.yaml", "values-keep.yaml"]):
        assert faults(together("values.yaml", *others)) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"singleuser": {"memroy": {"limit": "2G"}}},
        {"singleuser": {"cpu": {"guarantee": "100m"}}},
        {"singleuser": {"storage": {"type": "nothing"}}},
        {"singleuser": {"networkPolicy": {"egress": {}}}},
        {"cull": {"timeout": "1h"}},
    ],
    ids=str,
)
def test_the_schema_finds_what_is_wrong(wrong: dict[str, Any]) -> None:
    assert faults(wrong)


def test_no_secret_is_in_the_values() -> None:
    def keys(values: Any) -> list[str]:
        if not isinstance(values, dict):
            return []
        return [*values, *(key for value in values.values() for key in keys(value))]

    found = [key for values in FILES.values() for key in keys(values)]
    assert len(found) > 30
    assert [key for key in found if re.search(r"password|secret|token|key|credential", key, re.IGNORECASE)] == []


def test_nothing_goes_out_of_a_pod_but_on_azures_two_ports_when_wanted() -> None:
    alone = together("values.yaml")["singleuser"]["networkPolicy"]
    assert alone["enabled"] is True
    # The chart's other rules for pods of learners are: names, and nothing else.
    assert alone["egressAllowRules"] == {"nonPrivateIPs": False}
    assert "egress" not in alone
    (rule,) = together("values.yaml", "values-azure.yaml")["singleuser"]["networkPolicy"]["egress"]
    assert {(port["port"], port["protocol"]) for port in rule["ports"]} == {(443, "TCP"), (8883, "TCP")}
    (block,) = rule["to"]
    assert "169.254.169.254/32" in block["ipBlock"]["except"]


def test_the_first_page_is_there_and_a_disk_hides_no_notebook() -> None:
    pod = together("values.yaml", "values-keep.yaml")["singleuser"]
    assert (ROOT / pod["defaultUrl"].removeprefix("/lab/tree/")).is_file()
    mount, work = Path(pod["storage"]["homeMountPath"]), Path(pod["extraEnv"]["DPSX_WORK_DIR"])
    assert mount in work.parents
    inside = mount.relative_to("/home/jovyan")
    assert inside.parts, "the home folder is where repo2docker puts the repository"
    tracked = {path.name for path in ROOT.iterdir()}
    assert inside.parts[0] not in tracked


def test_image_and_chart_are_the_same_in_page_values_and_schema() -> None:
    text = page("kubernetes.md")
    build = next(block for block in blocks(text, "sh") if "jupyter-repo2docker" in block)
    values = together("values.yaml")["singleuser"]
    # What is replayed in test_binder is this image: the same folder, the same builder, the same user.
    assert str(values["uid"]) == ARGUMENTS["NB_UID"]
    assert f"--user-id {ARGUMENTS['NB_UID']} --user-name {ARGUMENTS['NB_USER']} " in build
    (builder,) = pins("requirements-dev.txt")["jupyter-repo2docker"]
    assert f"pip install jupyter-repo2docker=={builder}\n" in build
    assert f"image={values['image']['name']} " in build
    (version,) = re.findall(r"--version (\d+\.\d+\.\d+)", text)
    assert f"release {version}:" in (VALUES / "values.yaml").read_text()
    assert f"*jupyterhub* {version} " in (ROOT / "tests" / "z2jh" / "README.md").read_text()


def size(text: str) -> int:
    """Bytes, as KubeSpawner reads them: powers of 1024."""
    return int(text[:-1]) * 1024 ** (" KMGT".index(text[-1]))


def test_the_requests_come_from_the_measurements() -> None:
    table = measured()
    assert list(table) == ["JupyterLab alone", *(f"{number:02}" for number in BY_NUMBER)]
    most = {name: values[3] * 1e6 for name, values in table.items()}
    pod = together("values.yaml")["singleuser"]
    guarantee, limit = size(pod["memory"]["guarantee"]), size(pod["memory"]["limit"])
    assert most["09"] <= guarantee <= 1.5 * most["09"], "a class, with every kernel open; 10 comes on top"
    assert 1.2 * max(most.values()) <= limit <= 2 * max(most.values()), "all notebooks, and something to spare"
    cpu = sum(table[f"{number:02}"][4] for number in range(6))
    minutes = sum(head_minutes(number) for number in range(6))
    assert cpu / (60 * minutes) <= pod["cpu"]["guarantee"] <= 1 <= pod["cpu"]["limit"]
    text = page("kubernetes.md")
    assert f"The quickstart takes {cpu:.0f} CPU seconds" in text
    assert f"`{pod['memory']['guarantee']}`" in text
    assert f"`{pod['memory']['limit']}`" in text


def test_the_measuring_command_measures() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "learner.py", "0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    alone, first = rows(done.stdout, 7)
    assert (alone[0], first[0]) == ("JupyterLab alone", "00")
    server, kernels, emulator, most = map(int, first[1:5])
    assert min(server, kernels, emulator) > 10
    assert max(server, kernels, emulator) < most <= server + kernels + emulator + 2, "each is rounded"
    assert (alone[2], alone[3]) == ("0", "0")
    assert float(first[5]) > 0.5
