"""Where Python looks for modules. Only `sys` and `os` here: this runs before anything else is imported.

`python -m` puts the folder that the user stands in before everything else, so that a `tasks.py` or a
`json.py` that happens to lie there would be run in place of ours and of Python's own.
"""

from __future__ import annotations

import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
"""The folder that holds our packages."""


def drop_current_folder() -> None:
    """Take the folder that the user stands in off the search path, unless our packages lie in it.

    What the user names in PYTHONPATH stays; an empty part of it, which means that folder too, does not.
    """
    implied = [sys.path[0]] if sys.path and not sys.flags.safe_path else []
    if "" in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        implied += sys.path
    here = _real(os.curdir)
    if here != _real(ROOT):
        gone = {entry for entry in ["", *implied] if _real(entry or os.curdir) == here}
        sys.path[:] = [entry for entry in sys.path if entry not in gone]


def child_variables() -> dict[str, str]:
    """What the environment of a run's process adds, so that it finds our packages and nothing that the
    user happens to stand beside.
    """
    import sysconfig

    given = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    installed = _real(ROOT) in map(_real, (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
    # PYTHONPATH goes before the standard library: site-packages, which every process has, must not.
    path = given if installed or ROOT in given else [ROOT, *given]
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(path)}


def _real(path: str) -> str:
    try:
        return os.path.realpath(path)
    except OSError:  # the folder that the user stands in was removed
        return path
