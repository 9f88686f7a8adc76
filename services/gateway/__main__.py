"""`python -m services.gateway`: the HTTP side; any number may run."""

from services.gateway.app import SERVICE, build
from services.runtime.service import run_service

if __name__ == "__main__":
    run_service(SERVICE, build)
