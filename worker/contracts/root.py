"""The token of a jobs' folder: whoever reads the same one shares the folder."""

from uuid import uuid4

from worker.contracts.store import Store

#: Not a name that a job can have.
NAME = ".root"


def read_root(store: Store) -> str | None:
    """Return the token, or None in a folder that no producer has used."""
    raw = store.read(NAME)
    return None if raw is None else raw.decode("ascii", "replace")


def name_root(store: Store) -> str:
    """Return the token; the first who asks makes it."""
    token = read_root(store)
    if token is not None:
        return token
    made = uuid4().hex
    if store.put_new(NAME, made.encode("ascii")):
        return made
    return name_root(store)
