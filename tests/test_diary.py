import asyncio
import threading

import pytest

from dpsx_helpers.diary import Diary
from dpsx_helpers.tutorial import Stop


def in_a_thread(diary: Diary, *lines: str) -> threading.Thread:
    """As a handler of the SDK does it."""
    thread = threading.Thread(target=lambda: [diary.note(line) for line in lines])
    thread.start()
    return thread


def test_written_in_one_thread_and_read_in_another() -> None:
    async def cell() -> None:
        diary = Diary("lamp")
        assert diary.news().text == "The diary of lamp: nothing new."
        waiting = asyncio.create_task(diary.wait(2))
        await asyncio.sleep(0)
        in_a_thread(diary, "on").join()
        await asyncio.sleep(0.01)
        assert not waiting.done(), "one line is not two"
        in_a_thread(diary, "off").join()
        assert (await waiting).text == "The diary of lamp\non\noff"
        assert diary.news().text.endswith("nothing new.")

    asyncio.run(cell())


def test_what_is_there_already_is_not_waited_for() -> None:
    async def cell() -> None:
        diary = Diary("lamp")
        diary.note("on")
        assert (await diary.wait(within=0)).text == "The diary of lamp\non"
        assert (await diary.wait(0, within=0)).text.endswith("nothing new.")

    asyncio.run(cell())


def test_a_new_page_begins_the_count_anew() -> None:
    async def cell() -> None:
        diary = Diary("lamp")
        diary.note("on")
        diary.new_page()
        with pytest.raises(Stop, match=r"lamp has noted 0 of 1 lines within 0\.01 seconds"):
            await diary.wait(within=0.01)
        diary.note("off")
        assert (await diary.wait()).text == "The diary of lamp\noff"
        assert diary.lines == ["on", "off"]

    asyncio.run(cell())


def test_lines_that_did_come_stay_news_for_the_next_cell() -> None:
    async def cell() -> None:
        diary = Diary("lamp")
        diary.note("on")
        with pytest.raises(Stop, match="has noted 1 of 2 lines"):
            await diary.wait(2, within=0.01)
        assert diary.news().text == "The diary of lamp\non"

    asyncio.run(cell())
