import pickle
import ssl
import time

import pytest
import trustme

from clients import CifarError, Client, ImageError, errors
from clients.errors import StatusError
from clients.limiter import BATCH_SIZE
from clients.protocol import pause_s
from tests.clients.conftest import Ask
from tests.clients.fake_service import Drop, FakeService, Reply, Silence, png, problem

STATUSES = [
    (400, "bad_request", errors.BadRequest),
    (401, "unauthorized", errors.Unauthorized),
    (404, "not_found", errors.NotFound),
    (413, "too_many_pixels", errors.PayloadTooLarge),
    (415, "unsupported_media_type", errors.StatusError),
    (422, "corrupt_image", errors.InvalidImage),
    (429, "queue_full", errors.TooManyRequests),
    (500, "internal", errors.ServerError),
    (503, "not_ready", errors.NotReady),
    (504, "deadline_exceeded", errors.DeadlineExceeded),
    (418, "teapot", errors.StatusError),
    (302, "moved", errors.StatusError),
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


@pytest.mark.parametrize("body", [b"<html>", b"[" * 100_000], ids=["page", "nested"])
def test_a_proxys_page_is_an_error_of_its_status(service: FakeService, ask: Ask, body: bytes) -> None:
    service.script.append(Reply(502, body, "text/html", {"X-Request-ID": "edge-7"}))
    with pytest.raises(errors.ServerError) as caught:
        ask.one(service.url, png(1), retries=0)
    assert (caught.value.status, caught.value.code, caught.value.request_id) == (502, "http_502", "edge-7")
    assert caught.value.detail == "Bad Gateway"


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 520, 524])
def test_a_status_that_passes_is_asked_again(service: FakeService, ask: Ask, impatient: None, status: int) -> None:
    service.script.extend([problem(status, "later"), problem(status, "later")])
    assert ask.one(service.url, png(5)).class_id == 5
    assert [asked.body for asked in service.asked] == [png(5)] * 3


def test_a_lost_connection_is_asked_again(service: FakeService, ask: Ask, impatient: None) -> None:
    service.script.extend([Drop(), Drop()])
    assert ask.one(service.url, png(5)).class_id == 5


def test_after_two_retries_the_failure_is_raised(service: FakeService, ask: Ask, impatient: None) -> None:
    service.script.extend([Drop(), Drop(), problem(503, "not_ready")])
    with pytest.raises(errors.NotReady):
        ask.one(service.url, png(5))
    assert len(service.asked) == 3


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422])
def test_a_status_that_stays_is_not_asked_again(service: FakeService, ask: Ask, status: int) -> None:
    service.script.append(problem(status, "no"))
    with pytest.raises(StatusError):
        ask.one(service.url, png(5))
    assert len(service.asked) == 1


def test_retry_after_is_obeyed(service: FakeService, ask: Ask, impatient: None) -> None:
    service.script.append(problem(429, "queue_full", Retry_After="1"))
    started = time.monotonic()
    assert ask.one(service.url, png(5)).class_id == 5
    assert 1 <= time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("soon", None),
        ("Wed, 21 Oct 2015 07:28:00 +99999999999999999", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(service: FakeService, ask: Ask, header: str, seconds: float | None) -> None:
    service.script.append(problem(429, "queue_full", Retry_After=header))
    with pytest.raises(errors.TooManyRequests) as caught:
        ask.one(service.url, png(5), retries=0)
    assert caught.value.retry_after_s == seconds


def test_a_service_that_wants_to_be_left_alone_past_the_deadline_is(service: FakeService, ask: Ask) -> None:
    service.script.append(problem(503, "not_ready", Retry_After="3600"))
    with pytest.raises(errors.NotReady):
        ask.one(service.url, png(5))
    assert len(service.asked) == 1


def test_the_deadline_ends_all_attempts_together(service: FakeService, ask: Ask, impatient: None) -> None:
    service.script.extend([Drop(), Silence()])
    started = time.monotonic()
    with pytest.raises(errors.ServiceTimeout, match=r"did not answer within 0\.5 s in all"):
        ask.one(service.url, png(5), deadline_s=0.5)
    assert 0.5 <= time.monotonic() - started < 5


def test_the_deadline_holds_for_the_halves_of_a_request_too(service: FakeService) -> None:
    service.script.extend([problem(429, "queue_full", Retry_After="2")] * 2)
    with Client(service.url, deadline_s=3.8) as client, pytest.raises(errors.TooManyRequests):
        list(client.predict_many([png(1)] * BATCH_SIZE, concurrency=1))
    assert [len(asked.images) for asked in service.asked] == [BATCH_SIZE, BATCH_SIZE // 2]


@pytest.mark.parametrize(
    "error", [errors.ServiceUnreachable("lost"), errors.TooManyRequests(429, "queue_full", "busy", None, None)]
)
def test_pauses_grow_to_eight_seconds_with_jitter(error: CifarError) -> None:
    for attempt, longest in [*enumerate([0.5, 1, 2, 4, 8, 8, 8]), (5000, 8)]:
        pauses = [pause_s(error, attempt, retries=9999, left_s=100) for _ in range(100)]
        assert 0.75 * longest <= min(pauses) < max(pauses) <= longest


def test_what_the_service_asks_for_is_never_undercut() -> None:
    busy = errors.TooManyRequests(429, "queue_full", "busy", None, 2.0)
    pauses = [pause_s(busy, 0, retries=1, left_s=100) for _ in range(100)]
    assert 2 <= min(pauses) < max(pauses) <= 2.5


def test_a_service_that_asks_for_no_pause_is_given_one() -> None:
    busy = errors.TooManyRequests(429, "queue_full", "busy", None, 0.0)
    assert min(pause_s(busy, attempt, retries=9999, left_s=100) for attempt in range(100)) >= 0.1


def test_no_answer_in_time_is_a_timeout(service: FakeService, ask: Ask) -> None:
    service.script.append(Silence())
    with pytest.raises(errors.ServiceTimeout, match=r"did not answer within 0\.5 s"):
        ask.one(service.url, png(5), timeout_s=0.5, retries=0)


@pytest.mark.parametrize("scheme", ["https", "HTTPS"])
def test_a_certificate_that_nobody_vouches_for_is_refused(service: FakeService, ask: Ask, scheme: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    service.encrypt(context)
    with pytest.raises(errors.ServiceUnreachable, match="CERTIFICATE_VERIFY_FAILED"):
        ask.one(service.url.replace("http", scheme), png(5), retries=0)
    assert not service.asked


def test_nobody_there_is_a_sentence_with_the_address(ask: Ask) -> None:
    with pytest.raises(errors.ServiceUnreachable, match=r"no answer from http://127\.0\.0\.1:9: "):
        ask.one("http://127.0.0.1:9", png(5), retries=0)


PREDICTION = b'{"label":"cat","class_id":3,"confidence":%s,"top":%s,"model":%s}'
MODEL = b'{"name":"n","version":"v"}'


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>hello</html>", "JSONDecodeError"),
        (b"[]", "TypeError"),
        (b"\xff", "UnicodeDecodeError"),
        (b"{}", "KeyError: 'model'"),
        (PREDICTION % (b'"high"', b"[]", MODEL), "could not convert string to float: 'high'"),
        (PREDICTION % (b"0.5", b"3", MODEL), "'int' object is not iterable"),
        (PREDICTION % (b"0.5", b"[3]", MODEL), "'int' object is not subscriptable"),
        (PREDICTION % (b"0.5", b"[]", b"{}"), "KeyError: 'name'"),
        (PREDICTION % (b"0.5", b"[]", b'{"name":1,"version":"v"}'), "name is int, not str"),
        (PREDICTION % (b"1" + b"0" * 400, b"[]", MODEL), "OverflowError"),
        (PREDICTION.replace(b'"cat"', b"null") % (b"0.5", b"[]", MODEL), "label is NoneType, not str"),
        (PREDICTION.replace(b"3", b'"3"') % (b"0.5", b"[]", MODEL), "class_id is str, not int"),
        (PREDICTION % (b"0.5", b'[{"label":[]}]', MODEL), "label is list, not str"),
        (PREDICTION % (b"0.5", b'[],"uncertain":"no"', MODEL), "uncertain is str, not bool"),
        (b"[" * 100_000, "RecursionError"),
    ],
)
def test_an_answer_of_another_shape_is_refused_saying_why(
    service: FakeService, ask: Ask, body: bytes, message: str
) -> None:
    service.script.append(Reply(200, body))
    with pytest.raises(errors.MalformedAnswer, match=message):
        ask.one(service.url, png(1))


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        (b"[]", "0 predictions for 2 images"),
        (b"[1,2]", "'int' is not iterable"),
        (b'[{"error":3},2]', "TypeError"),
        (b'[{"error":{"code":"c","detail":null}},2]', "detail is NoneType, not str"),
    ],
)
def test_a_list_of_another_shape_is_refused_too(
    service: FakeService, ask: Ask, predictions: bytes, message: str
) -> None:
    service.script.append(Reply(200, b'{"predictions":%s,"model":%s}' % (predictions, MODEL)))
    with pytest.raises(errors.MalformedAnswer, match=message):
        ask.many(service.url, [png(1), png(2)])


def test_a_failing_service_ends_predict_many(service: FakeService, ask: Ask, impatient: None) -> None:
    service.script.extend([problem(500, "internal")] * 100)
    with pytest.raises(errors.ServerError):
        ask.many(service.url, [png(1)] * 1000)


def test_a_busy_service_does_not_end_predict_many(service: FakeService, ask: Ask, impatient: None) -> None:
    service.script.extend([problem(429, "queue_full", Retry_After="0")] * 20)
    assert len(ask.many(service.url, [png(1)] * 1000)) == 1000


def test_a_service_that_stays_busy_is_asked_ever_more_rarely(service: FakeService, ask: Ask, impatient: None) -> None:
    service.script.extend([problem(429, "queue_full")] * 5)
    started = time.monotonic()
    assert len(ask.many(service.url, [png(1)])) == 1
    assert time.monotonic() - started >= 0.75 * 0.01 * (1 + 2 + 4 + 8 + 16)


def test_an_unreadable_file_raises_when_it_stands_alone(service: FakeService, ask: Ask) -> None:
    with pytest.raises(ImageError, match=r"missing\.png cannot be read") as caught:
        ask.one(service.url, "missing.png")
    assert caught.value.code == "unreadable"


def test_one_except_catches_everything() -> None:
    family = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert len(family) == 15
    assert all(issubclass(each, CifarError) for each in family)
    with Client("http://127.0.0.1:9", retries=0) as client, pytest.raises(CifarError):
        client.predict(png(1))


def test_the_tree_at_the_top_of_the_module_is_the_tree_of_classes() -> None:
    drawn = [line.partition("── ")[2].split()[0] for line in (errors.__doc__ or "").splitlines() if "── " in line]

    def walk(parent: type[CifarError]) -> list[str]:
        return [name for child in parent.__subclasses__() for name in (child.__name__, *walk(child))]

    assert drawn == walk(CifarError)


def test_errors_pass_between_processes() -> None:
    error = errors.TooManyRequests(429, "queue_full", "busy", "r-1", 1.0)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), vars(again)) == (errors.TooManyRequests, vars(error))
