"""What all tests share: the tiny models, and a desk to run commands at."""

pytest_plugins = ["tests.tiny", "tests.desk"]
