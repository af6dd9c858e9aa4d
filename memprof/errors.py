"""The one kind of error a user sees: a fact and a way out, in one line, with the exit code it means."""

LONGEST = 80


def shown(text: str) -> str:
    """What a user gave, as a message repeats it: in one line, printable, its middle left out where it is long."""
    line = text if text.isprintable() else repr(text)
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]}...{line[-LONGEST // 4 :]}"


class MemprofError(Exception):
    """Bad usage or configuration. Printed once, without a traceback, by the command line."""

    exit_code = 2


class CellFailedError(MemprofError):
    """A cell that was asked for ended in out-of-memory, a crash or a timeout."""

    exit_code = 3


class UnsupportedError(MemprofError):
    """This machine cannot do what was asked."""

    exit_code = 4


class NothingToDoError(MemprofError):
    """There is nothing to work on."""

    exit_code = 5
