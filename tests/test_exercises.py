"""The exercises of notebooks 06 to 10: their form, and that stub and solution cannot drift apart."""

from pathlib import Path

import pytest
from beyond import Stub, stubs
from executed import BEYOND, BY_NUMBER, cells, read, words

from dpsx_helpers import checks, progress, tutorial
from dpsx_helpers.checks.exercises import NotYet, of_notebook
from dpsx_helpers.targets import Target
from dpsx_helpers.tutorial import Stop

pytest_plugins = ["kit"]
each_notebook = pytest.mark.parametrize("number", BEYOND, ids=lambda number: BY_NUMBER[number].stem)


@each_notebook
def test_a_notebook_has_two_to_four_exercises_that_are_numbered(number: int) -> None:
    found = stubs(number)
    assert 2 <= len(found) <= 4
    assert [stub.number for stub in found] == list(range(1, len(found) + 1))
    assert len(of_notebook(number)) == len(found)


@each_notebook
def test_an_exercise_has_a_task_a_hint_and_a_solution_that_are_folded(number: int) -> None:
    for stub, exercise in zip(stubs(number), of_notebook(number), strict=True):
        assert f"### Exercise {stub.number}: {exercise.task}\n" in stub.text
        task = stub.text.split("<details>")[0]
        assert 10 <= words(task) <= 120
        assert stub.text.count("<details><summary>Hint</summary>\n\n") == 1
        assert stub.text.count("<details><summary>A solution</summary>\n\n```python\n") == 1
        assert stub.text.endswith("\n\n</details>")


@each_notebook
def test_the_stub_is_the_solution_with_something_left_out(number: int) -> None:
    for stub in stubs(number):
        assert stub.check == f"checks.exercise({number}, {stub.number})"
        assert stub.agrees, f"{stub.given}\n---\n{stub.solution}"


def test_a_stub_that_has_drifted_from_its_solution_is_found() -> None:
    text = "<details><summary>A solution</summary>\n\n```python\n{}\n```\n\n</details>"
    code = "name = 'camera'\n...\nchecks.exercise(6, 1)"
    assert Stub(6, 1, 1, text.format("name = 'camera'\nmake(name)"), code).agrees
    for solution in ("name = 'door'\nmake(name)", "name = 'camera'", "make(name)"):
        assert not Stub(6, 1, 1, text.format(solution), code).agrees
    assert not Stub(6, 1, 1, text.format("name = 'camera'"), "name = 'camera'\nchecks.exercise(6, 1)").agrees


def test_exercises_are_only_where_they_can_be_found() -> None:
    for number in BY_NUMBER:
        if number not in BEYOND:
            assert not [cell for cell in cells(read(number), "code") if "exercise" in cell.source]


def test_an_exercise_that_is_not_there_is_named(work: Path) -> None:
    with pytest.raises(Stop, match="Notebook 03 has no exercise 1: it has 0"):
        checks.exercise(3, 1)


def test_a_check_notes_when_it_was_passed_and_what_is_open_is_not(
    emulated: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dpsx_helpers.checks import exercises

    def look(target: Target) -> str:
        if not done:
            raise NotYet("nothing was found, and something is expected.")
        return "something was found"

    done = False
    monkeypatch.setattr(exercises, "of_notebook", lambda number: (exercises.Exercise("Make something", look),))
    assert checks.exercise(6, 1).text == "☐ Not yet: nothing was found, and something is expected."
    assert progress.recall() == {}
    done = True
    assert checks.exercise(6, 1).text == "✔ something was found"
    assert progress.recall().keys() == {"06.1"}
    first = progress.recall()
    checks.exercise(6, 1)
    assert progress.recall() == first, "the first time stays"


@pytest.mark.parametrize("content", ["{", "[]", '{"passed": []}', '{"passed": {"06": 1}}', "\0"])
def test_a_damaged_record_is_told_in_one_sentence(work: Path, content: str) -> None:
    (tutorial.work_dir() / "progress.json").write_text(content)
    with pytest.raises(Stop, match=r"progress\.json is damaged: delete that file"):
        progress.recall()
