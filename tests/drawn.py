"""Settings of tests on inputs that hypothesis draws: a few, always the same; with ``SAEKIT_FUZZ=100`` a hundred times
as many, ever new ones."""

import os

from hypothesis import HealthCheck, settings

_TIMES = int(os.environ.get("SAEKIT_FUZZ", "0"))


def drawn(examples: int) -> settings:
    """Return the settings of a test on so many drawn inputs."""
    return settings(
        max_examples=examples * max(_TIMES, 1),
        derandomize=not _TIMES,
        deadline=None,
        database=None,
        suppress_health_check=list(
            HealthCheck
        ),  # fixtures are made once for all examples, and a slow input is no fault
    )
