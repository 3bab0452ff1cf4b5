"""`spanmill worker` of a release that reads another version of the messages: see wire version.

The next one, or the one whose number stands in OTHER_WIRE_VERSION.

Run without words it is the child that the supervisor starts.
"""

import os
import sys
from functools import partial

import worker.contracts.queue as queue
import worker.serve
import worker.supervisor
from producer.cli import main as run

VERSION = int(os.environ.get("OTHER_WIRE_VERSION", queue.WIRE_VERSION + 1))


def main() -> None:
    """Be the supervisor or its child."""
    import worker.app as app

    for module in (queue, app, worker.serve, worker.supervisor):
        module.name_queue = partial(queue.name_queue, wire=VERSION)  # type: ignore[attr-defined]
    worker.supervisor.WIRE_VERSION = VERSION  # type: ignore[attr-defined]
    queue.WIRE_VERSION = VERSION
    if len(sys.argv) == 1:
        app.main()
        return
    worker.serve.supervise = partial(worker.supervisor.supervise, program="tests.future_worker")
    run()


if __name__ == "__main__":
    main()
