"""`python -m mlxrag.tracking WORKSPACE`: the background process of a workspace, see `worker.py`.

It takes the lowest priority before it imports anything: the imports alone take some seconds of a processor, which a job
on the same one would notice.
"""

import os
import sys
from contextlib import suppress

if __name__ == "__main__":
    os.nice(19)
    if sys.platform == "linux":
        with suppress(OSError):
            # A job at real-time priority hands it on, and there nice says nothing.
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))

    from pathlib import Path

    from mlxrag.errors import MlxragError
    from mlxrag.tracking.worker import main

    try:
        main(Path(sys.argv[1]))
    except MlxragError as fault:
        sys.exit(f"mlxrag: {fault}")
