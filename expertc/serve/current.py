"""The model that answers: opened in the background, and replaced when another release becomes the active one.

The new one is opened and warmed up beside the old one; requests that have begun finish on the old one, which is then
closed. One that cannot be opened changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ExpertcError
from .metrics import Metrics
from .model import Model

INTERVAL = 1.0
"""Seconds between looks at which release is active."""

RETRY = 60.0
"""Seconds before a release that could not be opened is tried again: memory may be free by then."""

log = logging.getLogger("expertc.serve")


class Current:
    """Which model answers. Everything happens in the event loop's thread, but opening and closing.

    Args:
        where: the bundle that is active, None if none is; raises ``ExpertcError``.
        opens: opens a bundle; raises ``ExpertcError``.
        metrics: are told of switches and failures.
        ready: called once, when the first model can answer.
    """

    def __init__(
        self,
        where: Callable[[], Path | None],
        opens: Callable[[Path], Model],
        metrics: Metrics,
        ready: Callable[[Model], None] = lambda model: None,
    ) -> None:
        self.active: Model | None = None
        self._where, self._opens, self._metrics, self._ready = where, opens, metrics, ready
        self._users: Counter[Model] = Counter()
        self._closing: set[asyncio.Future[None]] = set()
        self._said = ""

    @contextmanager
    def use(self) -> Iterator[Model | None]:
        """The model that answers this request to its end; None before the first is open."""
        model = self.active
        if model is None:
            yield None
            return
        self._users[model] += 1
        try:
            yield model
        finally:
            self._users[model] -= 1
            self._let_go(model)

    async def follow(self) -> None:
        """Open what is active, and whatever becomes it, until cancelled. The first must open: raises what it raises."""
        path = await asyncio.to_thread(self._where)
        if path is None:
            raise ExpertcError("No release is active.")
        self._switch(await asyncio.to_thread(self._opens, path))
        assert self.active is not None
        self._ready(self.active)
        failed, again, clock = None, 0.0, asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(INTERVAL)
            path = await self._look()
            if path in (None, self.active.path) or (path == failed and clock() < again):
                continue
            assert path is not None
            try:
                self._switch(await asyncio.to_thread(self._opens, path))
                continue
            except ExpertcError as error:
                log.error("%s cannot answer, release %s still does: %s", path, self.active.version, error.message)
            except Exception:  # whatever opening a release comes to, the one before it goes on
                log.exception("%s cannot answer, release %s still does", path, self.active.version)
            failed, again = path, clock() + RETRY
            self._metrics.failures.inc()

    async def _look(self) -> Path | None:
        """What is active; None if that cannot be seen, which is said once."""
        said, self._said = self._said, ""
        try:
            return await asyncio.to_thread(self._where)
        except ExpertcError as error:
            self._said = error.message
        if self._said != said:
            log.error("it cannot be seen which release is active: %s", self._said)
        return None

    async def close(self) -> None:
        """Close what is open."""
        model, self.active = self.active, None
        if model is not None:
            self._let_go(model)
        await asyncio.gather(*self._closing)

    def _switch(self, model: Model) -> None:
        before, self.active = self.active, model
        self._metrics.release.info({"name": model.name, "release": model.version, "platform": model.platform})
        for notice in model.expert.notices:
            log.warning("%s", notice)
        if before is not None:
            self._metrics.switches.inc()
            log.info("release %s answers, after %s", model.version, before.version)
            self._let_go(before)

    def _let_go(self, model: Model) -> None:
        """Close a model that nobody uses and that does not answer any more, in a thread: an engine takes its time."""
        if model is self.active or self._users[model]:
            return
        del self._users[model]
        done = asyncio.ensure_future(asyncio.to_thread(model.expert.close))
        self._closing.add(done)
        done.add_done_callback(self._closing.discard)
