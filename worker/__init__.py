"""The worker answers batches: payload in, committed shard out."""
