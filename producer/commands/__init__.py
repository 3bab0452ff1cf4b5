"""The commands of the `spanmill` program: where click meets the rest."""
