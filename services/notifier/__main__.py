"""`python -m services.notifier`: needs NATS only; any number may run."""

from services.notifier.app import SERVICE, build
from services.runtime.service import run_service

if __name__ == "__main__":
    run_service(SERVICE, build)
