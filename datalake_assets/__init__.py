"""US Equity Data Lake: every US equity's daily bars, one Dagster partition per trading session.

Nothing is imported here, so that a notebook or a Lambda pays only for the modules that it uses.
"""

__version__ = "0.1.0"
