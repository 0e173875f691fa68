"""Dagster's UI as a person uses it: `make dev` in a browser. `make test-ui` runs these tests."""
