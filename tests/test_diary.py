import asyncio
import threading
from collections.abc import Coroutine
from inspect import iscoroutinefunction
from typing import Any

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
        with pytest.raises(Stop, match=r"lamp has noted 0 of 1 lines within 0\.01 seconds: .* came before"):
            await diary.wait(within=0.01)
        diary.note("off")
        assert (await diary.wait()).text == "The diary of lamp\noff"
        assert diary.lines == ["on", "off"]

    asyncio.run(cell())


def test_an_error_in_a_handler_is_a_line_and_goes_no_further() -> None:
    async def cell() -> None:
        diary = Diary("lamp")

        async def obey(request: str) -> None:
            raise ValueError(f"no such\n method: {request}")

        def fade(request: str) -> None:
            raise ZeroDivisionError

        def read(request: str) -> Coroutine[Any, Any, None]:  # it forgets to await, and the SDK would not do it either
            return obey(request)

        for handler in (obey, fade, read):
            watched = diary.watch(handler)
            assert iscoroutinefunction(watched), "the SDK asks"
            await watched("tea")
        assert diary.lines == [
            "the handler obey ended with an error: ValueError: no such method: tea",
            "the handler fade ended with an error: ZeroDivisionError",
            "the handler read ended with an error: ValueError: no such method: tea",
        ]

    asyncio.run(cell())


def test_a_handler_without_an_error_notes_nothing() -> None:
    async def cell() -> None:
        diary = Diary("lamp")
        heard: list[str] = []
        await diary.watch(heard.append)("on")
        assert (heard, diary.lines) == (["on"], [])

    asyncio.run(cell())


def test_lines_that_did_come_stay_news_for_the_next_cell() -> None:
    async def cell() -> None:
        diary = Diary("lamp")
        diary.note("on")
        with pytest.raises(Stop, match="has noted 1 of 2 lines"):
            await diary.wait(2, within=0.01)
        assert diary.news().text == "The diary of lamp\non"

    asyncio.run(cell())
