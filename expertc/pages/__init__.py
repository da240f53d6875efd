"""What all reports look like: three files in a folder, of which one is a page that needs nobody.

``markup`` escapes strangers' text, ``drawing`` and ``axis`` make pictures, ``parts`` tables and figures, ``folder``
writes the files.
"""

from .folder import FILES, ReportFolder, cell, to_json

__all__ = ["FILES", "ReportFolder", "cell", "to_json"]
