"""The program `ferdeploy`, and `python -m fer_deploy`."""

import sys


def main() -> None:
    """Run the command line. Ctrl-C while it is imported ends the program with one line."""
    try:
        from fer_deploy.cli import main as run
    except KeyboardInterrupt:
        sys.stderr.write("stopped.\n")
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
