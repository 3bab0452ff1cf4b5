"""What all tests share: the tiny models, a desk to run commands at, and a redis-server of their own."""

pytest_plugins = ["tests.tiny", "tests.desk", "tests.redis_server"]
