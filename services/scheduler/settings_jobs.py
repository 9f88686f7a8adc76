"""The jobs of the settings, as far as the clock can know them without any provider's key."""

from nats.js import JetStreamContext

from contracts import subjects
from contracts.job import Job
from services.runtime.settings import Settings
from services.runtime.settings.load import DEMO_PROVIDER, without_demo

_PAGE = 256


async def settings_jobs(js: JetStreamContext, settings: Settings) -> list[Job]:
    """The jobs of the settings. A provider counts as set up as well when `quotebus migrate` has made its consumers.

    The clock is given no key, so its own settings may lack a provider that works. Whoever prepares the server has all of them.

    Raises:
        nats.errors.Error: the server did not answer.
    """
    elsewhere = await provisioned_providers(js)
    if elsewhere and DEMO_PROVIDER not in elsewhere:
        settings = without_demo(settings)
    return settings.jobs(elsewhere)


async def provisioned_providers(js: JetStreamContext) -> frozenset[str]:
    """The providers that have consumers of their own on TASKS."""
    found: set[str] = set()
    offset = 0
    while page := await js.consumers_info(subjects.TASKS, offset=offset):
        found |= {provider for info in page if (provider := subjects.provider_of(info.config.filter_subject or ""))}
        offset += len(page)
        if len(page) < _PAGE:
            break
    return frozenset(found)
