"""What producer, worker and training agree on; the worker owns it."""
