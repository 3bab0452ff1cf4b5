"""What tests share: tiny models, a desk, a redis-server, fleets, S3, hosts, a training yard."""

import signal

# A shell lets what it starts in the background ignore these; tests, and what they start, hear them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

pytest_plugins = [
    "tests.tiny",
    "tests.desk",
    "tests.redis_server",
    "tests.fleet",
    "tests.deploy.stack",
    "tests.s3_server",
    "tests.yard",
    "tests.hosts",
]
