"""What the toolkit costs, each part measured beside its peer: `python -m benchmarks.NAME [--json]`.

A benchmark's last line is one JSON object with its figures, the figures wanted of it, and whether
they were met. `--quick` runs the same code for a moment, which says nothing about speed.
"""
