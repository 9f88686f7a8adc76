"""`python -m services.scheduler`: one clock; any number may run."""

import sys

from services.scheduler.start import main

if __name__ == "__main__":
    main(sys.argv[1:])
