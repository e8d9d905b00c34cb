"""``python -m greenfly``."""

from greenfly.cli import main

if __name__ == "__main__":
    main()
