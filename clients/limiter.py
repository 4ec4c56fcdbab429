"""How many requests may be under way, and of how many images: what brings the most images a second, found by trying."""

import asyncio

BATCH_SIZE = 256  # images in a request, unless even one of these at a time is too much
_FIRST = 4
_STEP = 1.5
_ROUND_S = 0.3  # so long, and over two answers to each request under way, a rate is measured before it is believed
_REST_S = 3.0  # between a try that brought nothing and the next
_PENALTY_S = 10.0  # until more is tried again where the service was too busy
_GAIN = 1.03  # so much a higher limit must bring, and a lower one may cost: few that do are better than many


class Limiter:
    """Climbs the hill of images/s, trying a higher and a lower `limit` by turns; a request too many halves it.

    `async with limiter:` waits for a turn. All times are of one clock, in seconds.
    """

    def __init__(self, most: int) -> None:
        if most < 1:
            raise ValueError(f"concurrency must be 1 or more, not {most}")
        self.limit, self.batch_size = min(_FIRST, most), BATCH_SIZE
        self._most = most
        self._under_way = 0
        self._changed = asyncio.Condition()
        self._good, self._good_rate = self.limit, 0.0  # the best limit so far; images/s with it
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
        wanted = self._good_rate * _GAIN if self._upwards else self._good_rate / _GAIN
        if self.limit == self._good or rate >= wanted:
            self._good, self._good_rate = self.limit, rate
            if now < self._rest_until:
                return
            step = int(self.limit * _STEP) + 1 if self._upwards else int(self.limit / _STEP)
            self.limit = max(1, min(step, self._most))
            self.batch_size = min(2 * self.batch_size, BATCH_SIZE)
        else:
            self.limit = self._good
        if self.limit == self._good:  # tried in vain, or there is no further to go
            self._upwards, self._rest_until = not self._upwards, now + _REST_S

    def refused(self, asked_at: float, now: float, too_slow: bool = False) -> None:
        """A request that was sent at `asked_at` was one too many, or of more images than are answered in time."""
        if asked_at >= self._lowered_at:  # else it was under way when the limit was lowered for another
            if self.limit == 1 or too_slow:
                self.batch_size = max(1, self.batch_size // (4 if too_slow else 2))  # few tries fit into a deadline
            self._good = self.limit = max(1, self.limit // 2)
            self._good_rate, self._upwards = 0.0, True
            self._began, self._answers, self._images = 0.0, 0, 0
            self._lowered_at, self._rest_until = now, now + _PENALTY_S
