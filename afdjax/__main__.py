"""`python -m afdjax`: the command."""

from afdjax.cli.main import command


if __name__ == "__main__":
    command()
