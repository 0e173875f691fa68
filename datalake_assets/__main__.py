"""`python -m datalake_assets`: the command line."""

from datalake_assets.cli import main

if __name__ == "__main__":
    main()
