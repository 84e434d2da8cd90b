"""flower-supernode, which ends where it would stay without a word: ``python -P -m fedkvasir.sites.supernode OPTIONS``.

Of itself it goes on when it has lost the server for good, for a thread of its Runtime API does. And where a run ends,
as its coordinator was stopped, while a message comes in or an answer goes out, what is left of that in its memory makes
every later answer come a message too late, or never (Flower 1.41). `fedkvasir site start` begins it anew.
"""

import logging
import os

RUN_IS_OVER = ("Ignoring message %s.", "Ignoring reply message %s.")
"""How what Flower writes into its log then ends."""


def end_with_the_run(record: logging.LogRecord) -> bool:
    """A filter of Flower's log: SystemExit, by which a SuperNode takes its leave of the server."""
    if str(record.msg).endswith(RUN_IS_OVER):
        print("the run was ended over one of its messages; begun anew for the next", flush=True)
        raise SystemExit
    return True


if __name__ == "__main__":
    from flwr.supernode.cli.flower_supernode import flower_supernode

    logging.getLogger("flwr").addFilter(end_with_the_run)
    try:
        flower_supernode()
    finally:
        os._exit(1)
