"""What the server answers: the routes, and how errors become statuses.

The Open Inference Protocol's REST form, version 2 (https://github.com/kserve/open-inference-protocol,
specification/protocol/inference_rest.md); ``POST /predict`` with an encoded image as the body, answered as ``expertc
predict --json`` does; ``GET /metrics`` for Prometheus.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .. import __version__
from ..errors import DataError, ExpertcError, OutOfMemoryError, UsageError
from ..text import clean_text, shown
from .current import Current
from .metrics import Metrics
from .model import Model
from .protocol import EXTENSIONS, JSON, JSON_LENGTH, encode
from .settings import Settings
from .work import Refused, Work

TOP = 5
"""Labels that ``/predict`` gives, as the command does."""

_GONE = 499  # nobody reads it: what nginx writes down for a client that has closed the connection

log = logging.getLogger("expertc.serve")


class Service:
    """The handlers. ``name`` is that of the model, ``current`` the one that answers."""

    def __init__(self, name: str, current: Current, work: Work, metrics: Metrics, settings: Settings) -> None:
        self._name, self._current, self._work = name, current, work
        self._metrics, self._settings = metrics, settings

    def app(self) -> ASGIApp:
        """The ASGI application."""
        model = "/v2/models/{name}"
        ways = [
            ("/v2", "GET", self.server), ("/v2/", "GET", self.server),
            ("/v2/health/live", "GET", self.live), ("/v2/health/ready", "GET", self.ready),
            *((f"{model}{version}{path}", method, handler)
              for version in ("", "/versions/{version}")
              for path, method, handler in (
                  ("", "GET", self.metadata), ("/ready", "GET", self.model_ready), ("/infer", "POST", self.infer))),
            ("/predict", "POST", self.predict), ("/metrics", "GET", self.metrics),
        ]  # fmt: skip
        routes = [Route(path, handler, methods=[method]) for path, method, handler in ways]
        app = Starlette(routes=routes, exception_handlers=dict.fromkeys(_FAILURES, self._failed))
        app.router.redirect_slashes = False
        return Counted(app, self._metrics)

    async def server(self, request: Request) -> Response:
        """``$metadata_server_response``."""
        return _json({"name": "expertc", "version": __version__, "extensions": list(EXTENSIONS)})

    async def live(self, request: Request) -> Response:
        """``$live_server_response``."""
        return _json({"live": True})

    async def ready(self, request: Request) -> Response:
        """``$ready_server_response``, with the word that KServe's own server uses beside the specification's."""
        ready = self._current.active is not None
        return _json({"live": True, "ready": ready}, 200 if ready else 503)

    async def model_ready(self, request: Request) -> Response:
        """``$ready_model_response``."""
        if self._current.active is None and request.path_params["name"] == self._name:
            return _json({"name": self._name, "ready": False}, 503)
        with self._asked(request):
            return _json({"name": self._name, "ready": True})

    async def metadata(self, request: Request) -> Response:
        """``$metadata_model_response``."""
        with self._asked(request) as model:
            return _json(model.metadata())

    async def infer(self, request: Request) -> Response:
        """``$inference_response``, in which tensors may be bytes."""
        with self._asked(request) as model:
            _refuse_coded(request)
            length = request.headers.get(JSON_LENGTH)
            async with self._work.body(request) as body:
                made, headers = await self._work.do(lambda: model.infer(body, length))
            return Response(made, headers=headers)

    async def predict(self, request: Request) -> Response:
        """What the expert says of the image that is the body: ``Prediction.to_mapping``."""
        top = _top(request)
        _refuse_coded(request)
        if request.headers.get("content-type", "").startswith("multipart/"):
            raise HTTPException(415, "Send the image itself as the body: curl --data-binary @photo.jpg.")
        with self._asked(request) as model:
            async with self._work.body(request) as body:
                most = self._settings.max_pixels
                found = await self._work.do(lambda: model.predict(body, top, most))
            self._metrics.predicted(found)
            return _json(found.to_mapping())

    async def metrics(self, request: Request) -> Response:
        """Prometheus' page."""
        return Response(self._metrics.text(), headers={"content-type": self._metrics.content_type})

    @contextmanager
    def _asked(self, request: Request) -> Iterator[Model]:
        """The model that the path names, or the one there is; it stays open until this ends."""
        name, version = request.path_params.get("name", self._name), request.path_params.get("version")
        if name != self._name:
            raise HTTPException(404, f"There is no model {shown(name)} here, but {shown(self._name)}.")
        with self._current.use() as model:
            if model is None:
                raise Refused(503, "opening", "The model is being opened.")
            if version not in (None, model.version):
                raise HTTPException(404, f"The version is {model.version}, not {shown(version)}.")
            yield model

    async def _failed(self, request: Request, error: Exception) -> Response:
        """The answer that says why: ``$inference_error_response`` and its like."""
        if isinstance(error, Refused):
            self._metrics.refused.labels(error.why).inc()
            return _json({"error": error.message}, error.status, error.headers)
        if isinstance(error, HTTPException):
            return _json({"error": error.detail}, error.status_code, error.headers)
        if isinstance(error, ClientDisconnect):
            return Response(status_code=_GONE)
        if not isinstance(error, ExpertcError):  # which starlette raises again, for the log
            return _json({"error": "Something unexpected happened, and is in the log."}, 500)
        theirs = isinstance(error, (DataError, UsageError))
        status = 400 if theirs else 503 if isinstance(error, OutOfMemoryError) else 500
        if not theirs:
            log.error("%s", clean_text(error.message))
        return _json({"error": clean_text(f"{error.message} {error.hint}")}, status)


class Counted:
    """Counts and times what ``app`` answers, by what handles it: a stranger's path is no label."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        start, status = time.perf_counter(), 500

        async def sent(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        self._metrics.in_flight.inc()
        app = _ambiguous if {b"content-length", b"transfer-encoding"} <= {*dict(scope["headers"])} else self._app
        try:
            await app(scope, receive, sent)
        finally:
            self._metrics.in_flight.dec()
            handler = scope.get("endpoint")
            route = "other" if handler is None else handler.__name__
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - start)


_FAILURES = (Refused, HTTPException, ExpertcError, ClientDisconnect, Exception)


def _json(data: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(encode(data), status, {"content-type": JSON, **(headers or {})})


_ambiguous = _json(
    {"error": "The request has two lengths: Content-Length and Transfer-Encoding."}, 400, {"connection": "close"}
)
"""Whoever stands between here and the client may have read another request (RFC 9112, section 6.3)."""


def _top(request: Request) -> int:
    said = request.query_params.get("top", str(TOP))
    if not (said.isascii() and said.isdecimal()) or len(said) > 9 or int(said) < 1:
        raise HTTPException(400, f"top is {shown(said)}, not a number of labels.")
    return int(said)


def _refuse_coded(request: Request) -> None:
    """A compressed body could be of any size."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise HTTPException(415, "Send the body without Content-Encoding.", {"accept-encoding": "identity"})
