"""flower-superlink with two locks more: ``python -P -m fedkvasir.sites.superlink OPTIONS``.

As it comes, whoever reaches its port may register hospitals, take them off and begin runs; here those requests need a
word that only who has the server's secret can say. And what a SuperNode has signed may be sent again for five minutes;
here it is taken once.
"""

import hmac
import sys
import time
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from threading import Lock as Mutex

from fastapi import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

HEADER = "x-fedkvasir-control"


def password(secret: bytes) -> str:
    """What the header says; the secret itself does not follow from it."""
    return hmac.digest(secret, b"fedkvasir control", "sha256").hex()


class Lock:
    """Middleware: a request to the Control API without the password gets 401."""

    def __init__(self, app: ASGIApp, word: str) -> None:
        self._app, self._word = app, word.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        inside = scope["type"] == "lifespan" or not str(scope["path"]).startswith("/v1/control")
        said = dict(scope.get("headers", ())).get(HEADER.encode(), b"")
        if inside or hmac.compare_digest(said, self._word):
            await self._app(scope, receive, send)
        else:
            await PlainTextResponse("the server's secret is needed", 401)(scope, receive, send)


class Once:
    """Flower's check of who signed a request, and that it is not one that was sent before.

    A SuperNode signs the time, to the microsecond, anew for every attempt. The signature itself does not tell: anyone
    can make another valid one (ECDSA) of it. What was seen is forgotten when it is too old to pass anyway, and when the
    server is started anew.
    """

    KEPT_S = 320.0
    """Longer than a signed time passes (300 s), with clocks that differ as much as they may."""

    def __init__(self, authenticate: Callable[[Request], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._authenticate, self._clock = authenticate, clock
        self._mutex, self._seen = Mutex(), dict[tuple[bytes, str], float]()

    def __call__(self, request: Request) -> None:
        """Raises HTTPException 401."""
        self._authenticate(request)
        signed, now = (b64decode(request.headers["flwr-public-key"]), request.headers["flwr-timestamp"]), self._clock()
        with self._mutex:
            while self._seen and now - next(iter(self._seen.values())) > self.KEPT_S:
                del self._seen[next(iter(self._seen))]
            if signed in self._seen:
                raise HTTPException(401, "this request was sent before")
            self._seen[signed] = now


def main() -> None:
    from flwr.superlink import extensions
    from flwr.superlink.cli.flower_superlink import flower_superlink
    from flwr.superlink.routers.fleet import node_auth

    node_auth.authenticate_node = Once(node_auth.authenticate_node)
    secret = Path(sys.argv[sys.argv.index("--superexec-auth-secret-file") + 1]).read_bytes()
    extensions.get_middleware = lambda: (Middleware(Lock, word=password(secret)),)
    flower_superlink()


if __name__ == "__main__":
    main()
