"""`spanmill worker` with a reader that answers at once.

Run without words it is the child that the supervisor starts.
"""

import sys
from functools import partial

import worker.serve
from producer.cli import main as run
from tests.benchmarks.instant import open_instant_tools
from worker.app import main as answer
from worker.supervisor import supervise


def main() -> None:
    """Be the supervisor or its child."""
    if len(sys.argv) == 1:
        answer(open_instant_tools)
        return
    worker.serve.supervise = partial(supervise, program="tests.benchmarks.instant_worker")
    run()


if __name__ == "__main__":
    main()
