"""What all tests share: tiny models, a desk to run commands at, a redis-server, a fleet, S3."""

pytest_plugins = [
    "tests.tiny",
    "tests.desk",
    "tests.redis_server",
    "tests.fleet",
    "tests.deploy.stack",
    "tests.s3_server",
]
