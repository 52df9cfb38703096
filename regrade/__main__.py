"""`python -m regrade` is the `regrade` command."""

from regrade.cli.main import app

if __name__ == "__main__":
    app(prog_name="regrade")
