"""What a SuperNode has signed is taken once."""

from base64 import b64encode

import pytest
from fastapi import HTTPException
from starlette.requests import Request

from fedkvasir.sites.superlink import Once


def request(key: bytes, timestamp: str) -> Request:
    headers = [(b"flwr-public-key", b64encode(key)), (b"flwr-timestamp", timestamp.encode())]
    return Request({"type": "http", "headers": headers})


def test_a_signed_time_of_a_key_passes_once_and_is_forgotten_when_it_is_too_old_to_pass_anyway() -> None:
    now = [0.0]
    once = Once(lambda request: None, clock=lambda: now[0])
    for key, timestamp in ((b"alta", "12:00"), (b"bergen", "12:00"), (b"alta", "12:01")):
        once(request(key, timestamp))
        with pytest.raises(HTTPException, match="401"):
            once(request(key, timestamp))
    now[0] = Once.KEPT_S + 1
    once(request(b"alta", "12:06"))
    assert len(once._seen) == 1


def test_what_is_not_authentic_is_not_kept() -> None:
    """Else a stranger could fill the memory, or use up a hospital's next moment."""

    def refuse(request: Request) -> None:
        raise HTTPException(401)

    once = Once(refuse)
    with pytest.raises(HTTPException):
        once(request(b"alta", "12:00"))
    assert not once._seen
