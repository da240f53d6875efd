"""How much hypothesis tries: little on every run, always the same in CI."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# pytest-randomly reseeds every test; derandomize makes a failure in CI one that can be had again at the desk.
settings.register_profile(
    "expertc",
    max_examples=int(os.environ.get("EXPERTC_EXAMPLES", "12")),
    derandomize="CI" in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("expertc")
