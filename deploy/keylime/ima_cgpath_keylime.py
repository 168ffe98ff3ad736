# SPDX-License-Identifier: Apache-2.0 OR MIT
"""The IMA template `ima-cgpath` for Keylime's verifier.

Keylime rejects a measurement list with a template that it has no parser for. This module adds one, without a change of
Keylime: `register()` puts the class into the parser's table. Digest and name are then judged by the runtime policy just
as those of `ima-ng`. What an entry says of the process, its ancestry and its control group, is covered by the template
digest and so by the quote, but Keylime's policies have no word for it: per-pod verdicts are `cgpath`'s.

    python3 -m ima_cgpath_keylime            is `keylime_verifier` with the class registered
    python3 -m ima_cgpath_keylime tenant …   the same for another of Keylime's commands
"""

import importlib
import struct
import sys

from keylime.ima import ast

TEMPLATE = "ima-cgpath"

#: Fields of a line after the template's name. None of them contains a space: `dep` and `cg-path` are escaped by the
#: kernel, and it replaces the spaces of `n-ng`.
FIELDS = ("dep", "cg-path", "d-ng", "n-ng")


class Text(ast.Type):
    """A string field: length, bytes, NUL."""

    def __init__(self, text: str):
        self.text = text

    def __str__(self) -> str:
        return self.text

    def struct(self) -> bytes:
        # Lists are read as UTF-8. The kernel escapes what is not ASCII, so that nothing can be lost here.
        data = self.text.encode("utf-8") + b"\0"
        return struct.pack(f"<I{len(data)}s", len(data), data)


class ImaCgpath(ast.Mode):
    """An entry of the template `ima-cgpath`: `dep|cg-path|d-ng|n-ng`."""

    def __init__(self, data: str):
        tokens = data.split(" ")
        if len(tokens) != len(FIELDS):
            raise ast.ParserError(
                f"Cannot create ImaCgpath: expected {' '.join(FIELDS)}, got {len(tokens)} fields."
            )
        self.dependencies = Text(tokens[0])
        self.cgroup = Text(tokens[1])
        self.digest = ast.Digest(tokens[2])
        self.path = ast.Name(tokens[3])

    def bytes(self) -> bytes:
        return (
            self.dependencies.struct()
            + self.cgroup.struct()
            + self.digest.struct()
            + self.path.struct()
        )

    def is_data_valid(self, validator):
        # Keylime builds its validators for the classes that it knows; digest and name mean the same as in ima-ng.
        # Where it has none for ima-ng either, what comes back here rejects everything.
        return validator.get_validator(ast.ImaNg)(self.digest, self.path)


def register() -> None:
    """Makes Keylime's parser know the template. Fails where the parser is not the one that this was made for."""
    known = getattr(ast.Entry, "_mode_lookup", None)
    if not isinstance(known, dict) or "ima-ng" not in known:
        raise RuntimeError(
            "this Keylime keeps its IMA templates elsewhere; this module was tested with 7.14.3"
        )
    known[TEMPLATE] = ImaCgpath


def main() -> None:
    """Runs one of Keylime's commands with the template registered."""
    command = "verifier"
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        command = sys.argv.pop(1)
    register()
    # Importing it here, after the table is complete: its workers are forked and inherit the table.
    importlib.import_module(f"keylime.cmd.{command}").main()


if __name__ == "__main__":
    main()
