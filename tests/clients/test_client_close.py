"""The end of a `Client`: while other threads wait for answers, while others end it too, and in a forked process."""

import itertools
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from clients import Client
from tests.clients.fake_service import FakeService, Silence, png

CLOSED = "the client is closed"
FORKED = """
import os, sys
from clients import Client
client = Client(sys.argv[1])
answers = client.predict_many([b"no image"] * 5000)
next(answers)
if "lock" in sys.argv:
    client._background._submitting.acquire()  # as another thread may, at the moment of the fork
if child := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))  # at once, though the stream is not at its end
for call in (lambda: client.predict(b""), lambda: list(answers), lambda: list(client.predict_many([b""]))):
    try:
        call()
    except RuntimeError as error:
        print(error, flush=True)
client.close()
os._exit(0)
"""


def test_a_client_may_be_closed_before_its_last_answer_is_taken(service: FakeService) -> None:
    with Client(service.url) as client:
        answers = client.predict_many([png(1)] * 5000)
        next(answers)
        service.script.extend([Silence()] * 10)
    answers.close()
    client.close()
    with pytest.raises(RuntimeError, match=CLOSED):
        client.predict(png(1))


def every_image(client: Client) -> None:
    for _ in client.predict_many(itertools.repeat(png(1))):
        pass


def one_after_another(client: Client) -> None:
    while True:
        client.predict(png(1))


@pytest.mark.parametrize("calls", [every_image, one_after_another])
def test_a_client_that_two_threads_close_ends_the_calls_of_a_third(
    service: FakeService, calls: Callable[[Client], None]
) -> None:
    """A call that came just as the loop stopped waited for ever."""
    said: list[str] = []

    def call(client: Client) -> None:
        try:
            calls(client)
        except BaseException as error:
            said.append(f"{type(error).__name__}: {error}")

    for number in range(40):
        client = Client(service.url)
        threads = [threading.Thread(target=call, args=[client], daemon=True)]
        threads += [threading.Thread(target=client.close, daemon=True) for _ in range(2)]
        threads[0].start()
        threads[0].join(number / 1000)  # while a request is made, sent, answered
        for thread in threads[1:]:
            thread.start()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()
    assert said == [f"ClosedError: {CLOSED}"] * 40


@pytest.mark.parametrize("state", ["", "lock"])
def test_a_client_that_was_made_before_a_fork_says_so_and_does_not_wait(service: FakeService, state: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORKED, service.url, state]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    sentence = "the client was made before this process was forked: make one in each process"
    assert done.stdout.splitlines() == [sentence] * 3, done.stderr
