"""The command line. Results go to standard output, everything else to standard error.

Exit codes: 0 ok, 1 the query failed, 2 wrong usage, 3 no server answers, 4 out of time, 130 interrupted. Only click is
imported before a command runs, so that `mql --help` answers at once.
"""

from __future__ import annotations

from server.commands import artifacts, asking, jobs, operating, templates, texts
from server.commands.common import main

__all__ = ["artifacts", "asking", "jobs", "main", "operating", "templates", "texts"]

if __name__ == "__main__":
    main()
