"""Compiles the modules of a folder: arguments are the folder, the folder for the results, and the path that the first one has in
the image.

The results are not compared with their sources when they are loaded, so neither a time nor a place is in them. A module that
can't be compiled is left out; Python says why when it is imported.
"""
import sys

# Nothing is imported from the current folder.
if sys.path and sys.path[0] == "":
    sys.path.pop(0)
import os
import py_compile

SIZE_MAX_BYTES = 4 * 1024 * 1024
UNCHECKED = py_compile.PycInvalidationMode.UNCHECKED_HASH


def main(top, out, place):
    for folder, folders, files in os.walk(top):
        # The order is part of the result: what was compiled before decides which constants are shared.
        folders.sort()
        for name in sorted(files):
            path = os.path.join(folder, name)
            if not name.endswith(".py") or os.path.islink(path) or os.path.getsize(path) > SIZE_MAX_BYTES:
                continue
            below = os.path.relpath(path, top)
            to = "%s.%s.pyc" % (name[:-3], sys.implementation.cache_tag)
            to = os.path.join(out, os.path.dirname(below), "__pycache__", to)
            try:
                py_compile.compile(path, cfile=to, dfile="%s/%s" % (place, below), doraise=True, invalidation_mode=UNCHECKED)
            except (py_compile.PyCompileError, RecursionError, ValueError, MemoryError, OverflowError, UnicodeError):
                pass


main(*sys.argv[1:4])
