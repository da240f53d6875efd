"""``python -m expertc`` is the ``expertc`` command."""

from .cli import main

if __name__ == "__main__":
    main()
