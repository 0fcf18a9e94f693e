"""`python -m harness`."""

import sys

from harness.plugins.search_path import drop_current_folder

if __name__ == "__main__":
    drop_current_folder()

    from harness.cli import main

    sys.exit(main())
