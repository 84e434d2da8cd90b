"""flower-superlink with a lock on its Control API: ``python -P -m fedkvasir.sites.superlink OPTIONS``.

As it comes, whoever reaches its port may register hospitals, take them off and begin runs. Here those requests need a
word that only who has the server's secret can say.
"""

import hmac
import sys
from pathlib import Path

from starlette.middleware import Middleware
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


def main() -> None:
    from flwr.superlink import extensions
    from flwr.superlink.cli.flower_superlink import flower_superlink

    secret = Path(sys.argv[sys.argv.index("--superexec-auth-secret-file") + 1]).read_bytes()
    extensions.get_middleware = lambda: (Middleware(Lock, word=password(secret)),)
    flower_superlink()


if __name__ == "__main__":
    main()
