"""`python -m services.scheduler`: one clock; any number may run."""

from services.runtime.main import run_service
from services.scheduler.app import SERVICE, build

if __name__ == "__main__":
    run_service(SERVICE, build)
