"""What `python -m launch.bench` is made of: rows, the two sides of a ratio, and what is measured inside a process."""
