"""Benchmarks: one module a question, each prints ratios of things measured side by side.

Run one with `.venv/bin/python -m benchmarks.NAME`; `docs/benchmarks.md` has results and machines.
"""
