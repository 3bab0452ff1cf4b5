"""Text in, spans out: pure functions without I/O, clock or environment."""
