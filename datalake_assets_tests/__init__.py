"""The tests of `datalake_assets`, laid out as the package is."""
