"""Every error that spanmill raises on purpose; the class decides what is done about it.

SpanmillError
├── UsageError        the command cannot begin as it was given; nothing was done (exit status 2)
│   ├── InputError    an input file, a column or its type
│   └── BundleError   a model bundle that is damaged, unknown or missing
├── JobError          the job cannot go on as it is; what was committed stays (exit status 1)
├── RowError          one row's fault: recorded on the row, the rest of its batch is kept
└── WorldError        disk full, store away, broker away: pause, retry, no attempt is used up

Every message is one sentence that says what is wrong, where, and what to do; none quotes a
question or a passage.
"""


class SpanmillError(Exception):
    """The root of the tree."""


class UsageError(SpanmillError):
    """The command cannot begin as it was given."""


class InputError(UsageError):
    """An input cannot be read as question–passage rows."""


class BundleError(UsageError):
    """A bundle is damaged, unknown to this version, or missing."""


class JobError(SpanmillError):
    """A job cannot go on; what it committed stays."""


class RowError(SpanmillError):
    """One row cannot be answered."""


class WorldError(SpanmillError):
    """The surroundings failed, not the work: worth another try later."""
