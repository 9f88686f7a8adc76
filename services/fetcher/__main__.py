"""`python -m services.fetcher`"""

from services.fetcher.app import build
from services.runtime.service import run_service

if __name__ == "__main__":
    run_service("fetcher", build)
