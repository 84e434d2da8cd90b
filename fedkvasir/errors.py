"""The two ways a command can end badly; the command line turns them into one sentence and an exit code."""


class UserError(Exception):
    """The user can mend this: a key, a path, a dataset, a combination. Exit code 2."""


class RunFailed(Exception):
    """The run itself could not go on: too few hospitals, a full disk, a lost worker. Exit code 1."""
