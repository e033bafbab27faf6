"""What dpsx costs and how fast it is, measured beside a peer: `python -m benchmarks` (see docs/performance.md)."""
