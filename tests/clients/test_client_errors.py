import pytest

import clients
from clients import CifarError, Client, ImageError, StatusError
from clients.protocol import retry_delay_s
from tests.clients.conftest import Ask
from tests.clients.fake_service import Drop, FakeService, Reply, Silence, png, problem

STATUSES = [
    (400, "bad_request", clients.BadRequest),
    (401, "unauthorized", clients.Unauthorized),
    (404, "not_found", clients.NotFound),
    (405, "method_not_allowed", clients.MethodNotAllowed),
    (413, "too_many_pixels", clients.PayloadTooLarge),
    (415, "unsupported_media_type", clients.UnsupportedMediaType),
    (422, "corrupt_image", clients.InvalidImage),
    (429, "queue_full", clients.TooManyRequests),
    (500, "internal", clients.ServerError),
    (503, "not_ready", clients.NotReady),
    (504, "deadline_exceeded", clients.DeadlineExceeded),
    (418, "teapot", clients.StatusError),
    (302, "moved", clients.StatusError),
]


@pytest.mark.parametrize(("status", "code", "exception"), STATUSES)
def test_every_status_has_its_exception(
    service: FakeService, ask: Ask, status: int, code: str, exception: type[StatusError]
) -> None:
    service.script.append(problem(status, code, "the reason"))
    with pytest.raises(exception) as caught:
        ask.one(service.url, png(1), retries=0)
    error = caught.value
    assert type(error) is exception
    assert (error.status, error.code, error.detail, error.request_id) == (status, code, "the reason", "r-1")
    assert str(error) == f"the reason (HTTP {status} {code}, request r-1)"


def test_a_proxys_page_is_an_error_of_its_status(service: FakeService, ask: Ask) -> None:
    service.script.append(Reply(502, b"<html>", "text/html", {"X-Request-ID": "edge-7"}))
    with pytest.raises(clients.ServerError) as caught:
        ask.one(service.url, png(1), retries=0)
    assert (caught.value.status, caught.value.code, caught.value.request_id) == (502, "http_502", "edge-7")
    assert caught.value.detail == "Bad Gateway"


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_status_that_passes_is_asked_again(service: FakeService, ask: Ask, pauses: list[float], status: int) -> None:
    service.script.extend([problem(status, "later"), problem(status, "later")])
    assert ask.one(service.url, png(5)).class_id == 5
    assert [asked.body for asked in service.asked] == [png(5)] * 3
    assert 0.375 <= pauses[0] <= 0.5
    assert 0.75 <= pauses[1] <= 1.0


def test_a_lost_connection_is_asked_again(service: FakeService, ask: Ask, pauses: list[float]) -> None:
    service.script.extend([Drop(), Drop()])
    assert ask.one(service.url, png(5)).class_id == 5


def test_after_two_retries_the_failure_is_raised(service: FakeService, ask: Ask, pauses: list[float]) -> None:
    service.script.extend([Drop(), Drop(), problem(503, "not_ready")])
    with pytest.raises(clients.NotReady):
        ask.one(service.url, png(5))
    assert len(service.asked) == 3


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422])
def test_a_status_that_stays_is_not_asked_again(service: FakeService, ask: Ask, status: int) -> None:
    service.script.append(problem(status, "no"))
    with pytest.raises(StatusError):
        ask.one(service.url, png(5))
    assert len(service.asked) == 1


@pytest.mark.parametrize(("header", "pause"), [("7", 7.0), ("0", 0.0), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0)])
def test_retry_after_is_obeyed(service: FakeService, ask: Ask, pauses: list[float], header: str, pause: float) -> None:
    service.script.append(problem(429, "queue_full", Retry_After=header))
    assert ask.one(service.url, png(5)).class_id == 5
    assert pauses == [pause]


def test_a_retry_after_that_means_nothing_is_not_obeyed(service: FakeService, ask: Ask, pauses: list[float]) -> None:
    service.script.append(problem(429, "queue_full", Retry_After="soon"))
    assert ask.one(service.url, png(5)).class_id == 5
    assert 0.375 <= pauses[0] <= 0.5


def test_a_service_that_wants_to_be_left_alone_for_an_hour_is(service: FakeService, ask: Ask) -> None:
    service.script.append(problem(503, "not_ready", Retry_After="3600"))
    with pytest.raises(clients.NotReady) as caught:
        ask.one(service.url, png(5))
    assert caught.value.retry_after_s == 3600


def test_pauses_grow_to_eight_seconds() -> None:
    lost = clients.ServiceUnreachable("lost")
    for attempt, longest in enumerate([0.5, 1, 2, 4, 8, 8, 8]):
        assert 0.75 * longest <= retry_delay_s(lost, attempt, retries=10) <= longest


def test_no_answer_in_time_is_a_timeout(service: FakeService, ask: Ask) -> None:
    service.script.append(Silence())
    with pytest.raises(clients.ServiceTimeout, match=r"did not answer within 0\.05 s"):
        ask.one(service.url, png(5), timeout_s=0.05, retries=0)


def test_nobody_there_is_a_sentence_with_the_address(ask: Ask) -> None:
    with pytest.raises(clients.ServiceUnreachable, match=r"no answer from http://127\.0\.0\.1:9: "):
        ask.one("http://127.0.0.1:9", png(5), retries=0)


PREDICTION = b'{"label":"cat","class_id":3,"confidence":%s,"top":%s,"model":%s}'
MODEL = b'{"name":"n","version":"v"}'


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>hello</html>", "application/json where JSON was expected"),
        (b"[]", "no 'model'"),
        (b"\xff", "where JSON was expected"),
        (PREDICTION % (b"7", b"[]", MODEL), "no 'confidence' between 0 and 1"),
        (PREDICTION % (b'"high"', b"[]", MODEL), "no 'confidence'"),
        (PREDICTION % (b"0.5", b"{}", MODEL), "no 'top' that is a list"),
        (PREDICTION % (b"0.5", b"[3]", MODEL), "no 'label' that is a str"),
        (PREDICTION % (b"0.5", b"[]", b"{}"), "no 'name' that is a str"),
    ],
)
def test_an_answer_of_another_shape_is_refused_saying_why(
    service: FakeService, ask: Ask, body: bytes, message: str
) -> None:
    service.script.append(Reply(200, body))
    with pytest.raises(clients.MalformedAnswer, match=message):
        ask.one(service.url, png(1))


@pytest.mark.parametrize(
    ("predictions", "message"),
    [(b"[]", "0 predictions to 2 images"), (b"[1,2]", "no 'label'"), (b'[{"error":3},2]', "no 'error' that is a dict")],
)
def test_a_list_of_another_shape_is_refused_too(
    service: FakeService, ask: Ask, predictions: bytes, message: str
) -> None:
    service.script.append(Reply(200, b'{"predictions":%s,"model":%s}' % (predictions, MODEL)))
    with pytest.raises(clients.MalformedAnswer, match=message):
        ask.many(service.url, [png(1), png(2)])


def test_a_failing_service_ends_predict_many(service: FakeService, ask: Ask, pauses: list[float]) -> None:
    service.script.extend([problem(500, "internal")] * 100)
    with pytest.raises(clients.ServerError):
        ask.many(service.url, [png(1)] * 100, batch_size=2)


def test_an_unreadable_file_raises_when_it_stands_alone(service: FakeService, ask: Ask) -> None:
    with pytest.raises(ImageError, match=r"missing\.png cannot be read") as caught:
        ask.one(service.url, "missing.png")
    assert caught.value.code == "unreadable"


def test_one_except_catches_everything() -> None:
    exceptions = [value for value in vars(clients).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert len(exceptions) == 17
    assert all(issubclass(each, CifarError) for each in exceptions)
    with Client("http://127.0.0.1:9", retries=0) as client, pytest.raises(CifarError):
        client.predict(png(1))
