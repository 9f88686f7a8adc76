"""A breaker: after some failures in a row the thing is left alone, then tried once in a while until it answers again."""

from collections.abc import Callable

import structlog

FAILURES = 3
FIRST_OPEN_S = 1.0
LONGEST_OPEN_S = 30.0

log = structlog.get_logger()


class CircuitBreaker:
    """Closed: use it. Open: leave it alone. Tells the log of each change, not of each failure."""

    def __init__(self, name: str, clock: Callable[[], float]) -> None:
        self._name = name
        self._clock = clock
        self._failures = 0
        self._pause_s = FIRST_OPEN_S
        self._closed_again_at = 0.0
        self.open = False

    def allow(self) -> bool:
        """True if the protected resource may be used: always while closed, once after each pause while open."""
        return not self.open or self._clock() >= self._closed_again_at

    def record_success(self) -> None:
        """It works."""
        if self.open:
            log.info(f"{self._name}_circuit_closed")
        self.open, self._failures, self._pause_s = False, 0, FIRST_OPEN_S

    def record_failure(self, error: BaseException) -> None:
        """It does not."""
        self._failures += 1
        if self.open:
            self._pause_s = min(2 * self._pause_s, LONGEST_OPEN_S)
        elif self._failures >= FAILURES:
            self.open = True
            log.warning(f"{self._name}_circuit_opened", error=str(error) or type(error).__name__, retry_s=self._pause_s)
        self._closed_again_at = self._clock() + self._pause_s
