"""Why a job of the settings does not ask, where the settings say so. When that is over it asks again."""

PAUSED_BY_SETTINGS = "enabled = false in the settings"
WAITS_FOR_PROVIDER = "waits for a provider: give one a key, or enabled = true"
