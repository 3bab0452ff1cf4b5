"""The exit statuses of every command."""

DONE = 0
FAILED = 1
USAGE = 2
WITH_ERRORS = 3
INTERRUPTED = 130
