"""The producer makes jobs out of files and files out of finished jobs."""
