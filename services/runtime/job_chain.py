"""Jobs that follow one another: each must lead back to one that goes by the time."""

from collections.abc import Mapping
from difflib import get_close_matches


def chain_fault(job: str, after: Mapping[str, str | None]) -> str | None:
    """What is wrong with what this job follows, if anything. `after`: of every job that is known, which one it follows, if any."""
    seen = [job]
    while (following := after.get(seen[-1])) is not None:
        if following not in after:
            near = get_close_matches(following, after, 1)
            hint = f"did you mean {near[0]}?" if near else "`quotebus jobs` lists all"
            return f"job {seen[-1]}: after: there is no job {following}; {hint}"
        if following in seen:
            return f"job {job}: after: {' follows '.join([*seen, following])}; one of them must go by the time"
        seen.append(following)
    return None
