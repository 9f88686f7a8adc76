"""The cookie and the crumb without which Yahoo gives no quotes and no options."""

import asyncio
from collections.abc import Mapping
from datetime import datetime

from services.fetcher.adapter.responses import decode_text, error_for_status, retry_after
from services.fetcher.provider import Http, ProviderError, Reply, Verdict

COOKIE_PAGE = "https://fc.yahoo.com/"
CRUMB_PATH = "/v1/test/getcrumb"


class Visitor:
    """Asks as one visitor of the site. Cookie and crumb are fetched once, and once more when Yahoo no longer takes them."""

    def __init__(self, user_agent: str) -> None:
        self.headers: dict[str, str] = {"User-Agent": user_agent, "Accept": "*/*"}
        self._crumb = ""
        self._fetching = asyncio.Lock()

    async def get(self, http: Http, path: str, params: Mapping[str, str], now: datetime) -> Reply:
        """The answer to a request that carries cookie and crumb; each request on the way there takes its own permit."""
        crumb = await self._crumb_other_than("", http, now)
        reply = await http.get(path, {**params, "crumb": crumb}, self.headers)
        if reply.status == 401:
            crumb = await self._crumb_other_than(crumb, http, now)
            reply = await http.get(path, {**params, "crumb": crumb}, self.headers)
        return reply

    async def _crumb_other_than(self, refused: str, http: Http, now: datetime) -> str:
        async with self._fetching:
            if self._crumb == refused:
                await self._take_cookie(http, now)
                reply = await http.get(CRUMB_PATH, None, self.headers)
                self._crumb = crumb_in(reply, now)
            return self._crumb

    async def _take_cookie(self, http: Http, now: datetime) -> None:
        try:
            reply = await http.get(COOKIE_PAGE, None, {"User-Agent": self.headers["User-Agent"]})
        except ProviderError as error:
            # Name servers that block trackers do not know this host; a crumb may be had without the cookie.
            if error.verdict not in (Verdict.SERVER_ERROR, Verdict.TIMEOUT):
                raise
            return
        if reply.status == 429:
            raise ProviderError(Verdict.RATE_LIMITED, "yahoo: too many requests", retry_after(reply, now))
        cookies = [line.partition(";")[0].strip() for line in reply.headers.get("set-cookie", "").splitlines()]
        if cookies:
            self.headers["Cookie"] = "; ".join(cookies)


def crumb_in(reply: Reply, now: datetime) -> str:
    """The crumb: one short word.

    Raises:
        ProviderError: anything else.
    """
    text = decode_text(reply)
    if "too many requests" in text.lower():
        raise ProviderError(Verdict.RATE_LIMITED, "yahoo: too many requests", retry_after(reply, now))
    if reply.status != 200 or not text or len(text) > 64 or set(text) & set("<{ \n"):
        raise error_for_status("yahoo", reply, now)
    return text
