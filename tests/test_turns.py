"""Who is served when the explorer is asked for more than it can compute."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from proponent.web import turns
from proponent.web.slots import BusyError, Working, in_background
from proponent.web.turns import InTurn, Patience, Turns, takes_long


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_the_newest_that_waits_comes_first() -> None:
    async def test() -> None:
        held, served = Turns(1), list[int]()

        async def ask(number: int) -> None:
            assert await held.take()
            served.append(number)

        await ask(0)
        tasks = [asyncio.create_task(ask(number)) for number in (1, 2, 3)]
        await settle()
        assert served == [0]
        for _ in range(3):
            held.give_back()
            await settle()
        await asyncio.gather(*tasks)
        assert served == [0, 3, 2, 1]
        held.give_back()
        assert await asyncio.wait_for(held.take(), 1), "a turn that nobody waited for is free"

    run(test)


def test_every_eighth_turn_goes_to_the_oldest_and_changes_keep_their_order() -> None:
    async def test() -> None:
        for in_order, expected in ((False, [8, 7, 6, 5, 4, 3, 2, 1]), (True, [1, 2, 3, 4, 5, 6, 7, 8])):
            held, served = Turns(1, in_order=in_order), list[int]()

            async def ask(number: int, held: Turns = held, served: list[int] = served) -> None:
                assert await held.take()
                served.append(number)

            assert await held.take()
            tasks = [asyncio.create_task(ask(number)) for number in range(1, 9)]
            await settle()
            for _ in tasks:
                held.give_back()
                await settle()
            await asyncio.gather(*tasks)
            assert served == expected

    run(test)


def test_nobody_waits_for_ever() -> None:
    async def test() -> None:
        held = Turns(1)
        assert await held.take()
        assert not await held.take(0.01)
        held.give_back()
        assert await held.take(0.01), "the one that gave up holds nothing"

    run(test)


def test_one_that_was_refused_and_leaves_gives_back_nothing() -> None:
    async def test() -> None:
        held = Turns(1, waiting=1)
        assert await held.take()
        tasks = [asyncio.create_task(held.take()) for _ in range(2)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        await settle()
        assert not tasks[1].done(), "the turn is still held"
        held.give_back()
        assert await tasks[1]

    run(test)


def test_of_too_many_the_oldest_is_refused() -> None:
    async def test() -> None:
        held = Turns(1, waiting=2)
        assert await held.take()
        tasks = [asyncio.create_task(held.take()) for _ in range(4)]
        await settle()
        assert [task.done() for task in tasks] == [True, True, False, False]
        assert (tasks[0].result(), tasks[1].result()) == (False, False)
        for _ in range(2):
            held.give_back()
        assert await asyncio.gather(*tasks[2:]) == [True, True]

    run(test)


@pytest.mark.parametrize("handed", [False, True])
def test_a_client_that_goes_away_keeps_no_turn(handed: bool) -> None:
    async def test() -> None:
        held = Turns(1)
        assert await held.take()
        waiting = asyncio.create_task(held.take())
        await settle()
        if handed:
            held.give_back()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        if not handed:
            held.give_back()
        assert await asyncio.wait_for(held.take(), 1)

    run(test)


async def nothing() -> turns.Message:
    await asyncio.sleep(3600)
    return {}


async def ignore(message: turns.Message) -> None: ...


async def never(scope: turns.Message, receive: turns.Receive, send: turns.Send) -> None:
    raise AssertionError


def scope(path: str, query: str = "") -> dict[str, Any]:
    return {"type": "http", "method": "GET", "path": path, "query_string": query.encode()}


@pytest.mark.parametrize(
    ("path", "query", "long"),
    [
        ("/table", "q=a&how=regex", True),
        ("/table", "q=a&%68ow=rege%78", True),
        ("/table", "q=how%3Dregex&how=word", False),
        ("/example", "id=x-0-1&list=q%3Da%26how%3Dregex", True),
        ("/example", "id=x-0-1&list=q%3Da%26how%3Dword", False),
        ("/export/table.csv", "", True),
        ("/upload", "", True),
        ("/ask", "text=how%3Dregex", False),
        ("/table", "q=&how=regex", False),
        ("/table", "q=a&role=user", True),
        ("/example", "id=x&list=q%3Da%26role%3Duser", True),
        ("/action", "id=label-errors", True),
        ("/selected", "", True),
    ],
)
def test_requests_that_take_long_are_known_by_their_address(path: str, query: str, long: bool) -> None:
    assert takes_long(scope(path, query)) is long


def test_pages_do_not_wait_for_what_takes_long_nor_for_what_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "LONG", 1)
    monkeypatch.setattr(turns, "PAGES", 1)

    async def test() -> None:
        go_on, begun, sent = asyncio.Event(), list[str](), list[str]()

        async def application(scope: turns.Message, receive: turns.Receive, send: turns.Send) -> None:
            begun.append(scope["path"])
            if scope["path"] == "/fails":
                raise RuntimeError
            if scope["path"].startswith("/export"):
                await go_on.wait()
            await send({"type": "http.response.start"})
            sent.append(scope["path"])
            await go_on.wait()  # a client that does not read

        async def ask(path: str) -> None:
            await guarded(scope(path), nothing, ignore)

        guarded = InTurn(application)
        tasks = [asyncio.create_task(ask(path)) for path in ("/export/a", "/export/b", "/table", "/about")]
        await settle()
        assert begun == ["/export/a", "/table", "/about"]
        assert sent == ["/table", "/about"]
        with pytest.raises(RuntimeError):
            await ask("/fails")
        tasks.append(asyncio.create_task(ask("/static/x.css")))
        await settle()
        assert "/static/x.css" in sent
        go_on.set()
        await asyncio.gather(*tasks)
        assert begun.count("/export/b") == 1

    run(test)


def test_a_page_is_not_built_for_a_client_that_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "PAGES", 1)

    async def test() -> None:
        go_on, begun = asyncio.Event(), list[str]()

        async def application(scope: turns.Message, receive: turns.Receive, send: turns.Send) -> None:
            begun.append(scope["path"])
            await go_on.wait()

        async def left() -> turns.Message:
            return {"type": "http.disconnect"}

        async def stays() -> turns.Message:
            await go_on.wait()
            return {"type": "http.disconnect"}

        guarded = InTurn(application)
        first = asyncio.create_task(guarded(scope("/table"), left, ignore))
        await settle()
        assert begun == ["/table"], "one that need not wait is answered in any case"
        for _ in range(3):
            with pytest.raises(BusyError):
                await guarded(scope("/gone"), left, ignore)
        last = asyncio.create_task(guarded(scope("/about"), stays, ignore))
        await settle()
        go_on.set()
        await asyncio.gather(first, last, return_exceptions=True)
        assert "/gone" not in begun

    run(test)


def test_other_than_requests_are_passed_on() -> None:
    async def test() -> None:
        seen = list[str]()

        async def application(scope: turns.Message, receive: turns.Receive, send: turns.Send) -> None:
            seen.append(scope["type"])

        await InTurn(application)({"type": "lifespan"}, nothing, ignore)
        assert seen == ["lifespan"]

    run(test)


def test_a_page_that_too_many_come_before_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(_: Turns, **__: Any) -> bool:
        return False

    monkeypatch.setattr(Turns, "take", refuse)

    async def test() -> None:
        with pytest.raises(BusyError, match="many others ask for pages: try again in a few seconds"):
            await InTurn(never)(scope("/table"), nothing, ignore)

    run(test)


def test_refusals_are_delayed_when_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    slept, clock = list[float](), [100.0]

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(turns.asyncio, "sleep", sleep)
    monkeypatch.setattr(turns.time, "monotonic", lambda: clock[0])
    patience = Patience(at_once=3, per_second=2.0, delay=1.5)

    async def test() -> None:
        for _ in range(5):
            await patience()
        assert slept == [1.5, 1.5]
        clock[0] += 0.5
        await patience()
        assert slept == [1.5, 1.5]
        await patience()
        assert slept == [1.5] * 3
        clock[0] += 1000
        for _ in range(4):
            await patience()
        assert slept == [1.5] * 4, "no more than at first are free, after any time"

    asyncio.run(test())


def test_a_file_waits_for_pages_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    working = Working()
    working.let_go_first()
    working.change(1)
    monkeypatch.setattr("proponent.web.slots.POLITE_SECONDS", 0.01)
    working.let_go_first()
    monkeypatch.setattr("proponent.web.slots.POLITE_SECONDS", 60.0)
    done = threading.Event()
    waiting = threading.Thread(target=lambda: (working.let_go_first(), done.set()))
    waiting.start()
    time.sleep(0.05)
    assert not done.is_set()
    working.change(-1)
    assert done.wait(20)
    waiting.join()


def test_work_in_the_background_returns_and_raises() -> None:
    assert in_background(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        in_background(divmod, 7, 0)
    assert in_background(threading.current_thread).name.startswith("background")
