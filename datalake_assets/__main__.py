"""`python -m datalake_assets`: the command line."""

from datalake_assets.cli import app

if __name__ == "__main__":
    app(prog_name="datalake")
