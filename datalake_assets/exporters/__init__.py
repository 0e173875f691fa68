"""Exports of a lake to backtesting tools, each in its own format: zipline, qlib, LEAN, Nautilus.

Belongs here: choosing what is exported, and a module for each tool that writes the tool's files.
Does not belong here: how bars are read and what they are worth (`lake`, `securities`).

A tool's module knows its format and nothing else. Bars go out as they traded where the tool adjusts
them itself (zipline, LEAN), with the splits and payments to do so; else with total return factors.
"""
