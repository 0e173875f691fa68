"""Somebody's own project, with two lakes in it."""
