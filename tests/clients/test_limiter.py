"""The limiter against services whose images/s are known for every limit; nothing sleeps, seconds are numbers."""

import asyncio
from collections.abc import Callable

import pytest

from clients.limiter import BATCH_SIZE, Limiter


def ask_for(seconds: float, limiter: Limiter, rate: Callable[[int], float], start: float = 1.0) -> list[int]:
    """Tells the limiter of answers of 64 images, at `rate(limit)` images/s; returns the limit after each answer."""
    now, limits = start, []
    while now < start + seconds:
        now += 64 / rate(limiter.limit)
        limiter.answered(64, now)
        limits.append(limiter.limit)
    return limits


def usual(limits: list[int]) -> int:
    """The most frequent limit of the second half, when it has settled."""
    settled = limits[len(limits) // 2 :]
    return max(set(settled), key=settled.count)


@pytest.mark.parametrize(("serves", "found"), [(2, 2), (4, 4), (7, 7), (20, 26), (100, 32)])
def test_it_finds_how_many_requests_a_service_gains_by(serves: int, found: int) -> None:
    """The service works on `serves` requests at a time; further ones only wait."""
    assert usual(ask_for(60, Limiter(32), lambda limit: 1000 * min(limit, serves))) == found


def test_the_limit_falls_when_more_requests_make_the_service_slower() -> None:
    limiter = Limiter(32)
    ask_for(30, limiter, lambda limit: 1000.0 * limit)
    assert limiter.limit == 32
    crowded = ask_for(60, limiter, lambda limit: 8000.0 / (1 + limit / 10), start=100)
    assert usual(crowded) <= 4


def test_the_limit_never_exceeds_its_maximum() -> None:
    assert max(ask_for(30, Limiter(5), lambda limit: 1000.0 * limit)) == 5
    assert max(ask_for(30, Limiter(1), lambda limit: 1000.0 * limit)) == 1


def test_a_request_too_many_halves_it_once_for_all_that_were_under_way() -> None:
    limiter = Limiter(32)
    ask_for(30, limiter, lambda limit: 1000.0 * limit)
    for asked_at in (40.0, 40.1, 40.2):
        limiter.refused(asked_at, 40.5)
    assert limiter.limit == 16
    limiter.refused(40.6, 40.7)
    assert limiter.limit == 8
    assert max(ask_for(9, limiter, lambda limit: 1000.0 * limit, start=41)) == 8, "it is not tried again at once"
    assert max(ask_for(9, limiter, lambda limit: 1000.0 * limit, start=50)) > 8


def test_where_even_one_request_is_too_much_it_becomes_smaller_and_in_time_larger_again() -> None:
    limiter = Limiter(1)
    for second in (1, 2, 3):
        limiter.refused(second, second + 0.5)
    assert (limiter.limit, limiter.batch_size) == (1, BATCH_SIZE // 8)
    ask_for(60, limiter, lambda limit: 1000.0, start=4)
    assert limiter.batch_size == BATCH_SIZE


def test_the_limit_never_falls_below_one_request_of_one_image() -> None:
    limiter = Limiter(32)
    for second in range(1, 20):
        limiter.refused(second, second + 0.5)
    assert (limiter.limit, limiter.batch_size) == (1, 1)


def test_no_more_than_the_limit_are_under_way_and_all_get_their_turn() -> None:
    async def crowd() -> tuple[int, int]:
        limiter, under_way, most, done = Limiter(32), 0, 0, 0

        async def one() -> None:
            nonlocal under_way, most, done
            async with limiter:
                under_way += 1
                most = max(most, under_way)
                await asyncio.sleep(0)
                under_way -= 1
                done += 1

        await asyncio.gather(*(one() for _ in range(100)))
        return most, done

    assert asyncio.run(crowd()) == (4, 100)
