"""Benchmarks: one module a question, each prints ratios of things measured side by side.

Run one with `.venv/bin/python -m benchmarks.NAME`; `docs/benchmarks.md` has results and machines.
What they share: `measuring` (time, CPU, memory, turns), `surroundings` (a client, a user's
environment, a store), `replay` (recorded answers of the exchange), `stages` (where the CPU goes)
and `sink` (a store that keeps nothing).
"""
