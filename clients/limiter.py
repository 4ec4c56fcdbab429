"""Finds by trying how many requests under way, and of how many images each, bring the most images a second."""

import asyncio

BATCH_SIZE = 256  # images in a request; fewer where these take too long, or even one request at a time is too much
_FIRST_LIMIT = 4
_STEP = 1.5  # factor between a limit and the next to try
_ROUND_S = 0.3  # a rate is measured for at least so long, and over at least two answers per request under way
_REST_S = 3.0  # after a try that brought nothing, until the next one
_PENALTY_S = 10.0  # after the service was too busy, until more is tried again
_GAIN = 1.03  # a higher limit must gain this factor, a lower one may lose it: if few requests do, few are better


class Limiter:
    """Hill climbing on images/s: it tries a higher and a lower `limit` in turn; a refused request halves the limit.

    `async with limiter:` waits until fewer than `limit` requests are under way. All times are in seconds, by one clock.
    """

    def __init__(self, max_limit: int) -> None:
        if max_limit < 1:
            raise ValueError(f"concurrency must be 1 or more, not {max_limit}")
        self.limit, self.batch_size = min(_FIRST_LIMIT, max_limit), BATCH_SIZE
        self._max_limit = max_limit
        self._under_way = 0
        self._changed = asyncio.Condition()
        self._best, self._best_rate = self.limit, 0.0  # the best limit so far; images/s with it
        self._upwards = True
        self._began, self._answers, self._images = 0.0, 0, 0  # the round that is being measured
        self._rest_until = self._lowered_at = 0.0

    async def __aenter__(self) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._under_way < self.limit)
            self._under_way += 1

    async def __aexit__(self, *_: object) -> None:
        async with self._changed:
            self._under_way -= 1
            self._changed.notify(max(0, self.limit - self._under_way))

    def answered(self, images: int, now: float) -> None:
        """A request of so many images has been answered."""
        if not self._began:
            self._began = now
            return
        self._answers += 1
        self._images += images
        if now - self._began < _ROUND_S or self._answers < 2 * self.limit:
            return
        rate = self._images / (now - self._began)
        self._began, self._answers, self._images = now, 0, 0
        wanted = self._best_rate * _GAIN if self._upwards else self._best_rate / _GAIN
        if self.limit == self._best or rate >= wanted:
            self._best, self._best_rate = self.limit, rate
            if now < self._rest_until:
                return
            step = int(self.limit * _STEP) + 1 if self._upwards else int(self.limit / _STEP)
            self.limit = max(1, min(step, self._max_limit))
            self.batch_size = min(2 * self.batch_size, BATCH_SIZE)
        else:
            self.limit = self._best
        if self.limit == self._best:  # the try brought nothing, or the end of the range is reached
            self._upwards, self._rest_until = not self._upwards, now + _REST_S

    def refused(self, sent_at: float, now: float, too_slow: bool = False) -> None:
        """A request sent at `sent_at` was one too many or, where `too_slow`, was not answered in time."""
        if sent_at >= self._lowered_at:  # else it was under way when the limit was lowered for another
            if self.limit == 1 or too_slow:
                self.batch_size = max(1, self.batch_size // (4 if too_slow else 2))  # few tries fit into a deadline
            self._best = self.limit = max(1, self.limit // 2)
            self._best_rate, self._upwards = 0.0, True
            self._began, self._answers, self._images = 0.0, 0, 0
            self._lowered_at, self._rest_until = now, now + _PENALTY_S
