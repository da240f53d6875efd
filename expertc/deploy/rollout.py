"""Many devices: canaries first, some at a time, and no further once too many have failed.

There is no list of what is done: every device knows which release is active there and that it passed its checks, so a
rollout that is started again finds that out, and finishes what is unfinished.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import groupby

from .fleet import AT_ONCE, CANARY
from .host import NOT_TRIED, Job, Outcome, deploy
from .transport import Ssh

Heard = Callable[[Job, str, "float | None"], None]
"""Hears what a device is doing; "" when it is done."""


async def roll_out(
    jobs: Sequence[Job],
    ssh: Ssh,
    told: Heard,
    *,
    at_once: int = AT_ONCE,
    canary: int = CANARY,
    stop_after: int | None = None,
) -> list[Outcome]:
    """Deploy all ``jobs``, which are in the order of their groups; the outcomes are in the same order.

    Args:
        jobs: what every device gets.
        ssh: how to connect.
        told: hears what each device is doing.
        at_once: devices at a time.
        canary: of every group that many go first; if one of them does not end well, no other device is touched.
        stop_after: that many failures end it; what has begun is finished, the others are not tried.
    """
    found: dict[int, Outcome] = {}
    places = asyncio.Semaphore(at_once)

    def failures() -> int:
        return sum(not outcome.good and outcome.state != NOT_TRIED for outcome in found.values())

    async def one(number: int) -> None:
        job = jobs[number]
        async with places:
            if stop_after is not None and failures() >= stop_after:
                found[number] = Outcome(job, NOT_TRIED, f"{_failed(failures())} before it.", _AGAIN)
                return
            found[number] = await deploy(job, ssh, lambda stage, share: told(job, stage, share))
        told(job, "", None)

    first = [number for group in _groups(jobs) for number in group[:canary]]
    await asyncio.gather(*map(one, first))
    rest = [number for number in range(len(jobs)) if number not in found]
    if failures():
        found |= {number: Outcome(jobs[number], NOT_TRIED, "A canary did not end well.", _AGAIN) for number in rest}
    else:
        await asyncio.gather(*map(one, rest))
    return [found[number] for number in range(len(jobs))]


def _failed(number: int) -> str:
    """So many devices, in words."""
    return "Another one failed" if number == 1 else f"{number} others failed"


_AGAIN = "Deploy again when that is mended: what is done is not done twice."


def _groups(jobs: Sequence[Job]) -> list[list[int]]:
    return [list(numbers) for _, numbers in groupby(range(len(jobs)), key=lambda number: jobs[number].group)]
