"""`spanmill worker` with a reader that some texts break for real: see tests.perils.

Run without words it is the child that the supervisor starts.
"""

import sys
from functools import partial

import worker.serve
from producer.cli import main as run
from tests.perils import open_perilous_tools
from worker.app import main as answer
from worker.supervisor import supervise


def main() -> None:
    """Be the supervisor or its child."""
    if len(sys.argv) == 1:
        answer(open_perilous_tools)
        return
    worker.serve.supervise = partial(supervise, program="tests.perilous_worker")
    run()


if __name__ == "__main__":
    main()
