"""`python -m services.cacher`"""

from services.cacher.app import build
from services.runtime.service import run_service

if __name__ == "__main__":
    run_service("cacher", build)
