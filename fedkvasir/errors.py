"""The two ways a command can end badly; the command line turns them into one sentence and an exit code."""

import difflib


class UserError(Exception):
    """The user can mend this: a key, a path, a dataset, a combination. Exit code 2."""


class RunFailed(Exception):
    """The run itself could not go on: too few hospitals, a full disk, a lost worker. Exit code 1."""


def reason_of(error: Exception) -> str:
    """Why one of several failed, on one line: the sentence of an error of ours; of another one its kind as well."""
    text = str(error) if isinstance(error, (UserError, RunFailed)) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())


def did_you_mean(name: str, known: list[str]) -> str:
    """`` (did you mean 'x'?)`` for the nearest known spelling, or nothing."""
    near = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
