"""`python -m fer_deploy` is `ferdeploy`."""

from fer_deploy.cli import main

if __name__ == "__main__":
    main()
