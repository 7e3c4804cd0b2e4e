"""The first moments of a command: its settings are read, and a mistake in them told, before torch is imported."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from command import USER_ERROR_EXIT_CODE, UserError, parse_settings, print_whatever_happens
from guided_diffusion.runs.environment import environment_rank
from schema import check_settings


def run(
    main: Callable[[Any, set[str]], Any],
    settings_class: type,
    description: str = "",
    groups: Mapping[str, tuple[type, str]] | None = None,
    args: Sequence[str] | None = None,
) -> int:
    """Read the settings, call `main(settings, given)` and return the exit code, the same on all ranks.

    given: the names of the settings that stand on the command line. groups: those of --help.
    """
    args = sys.argv[1:] if args is None else args
    print_whatever_happens()
    try:
        rank, _, _ = environment_rank()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR_EXIT_CODE
    with _silent_unless(rank == 0):
        try:
            settings = parse_settings(settings_class, args, description, groups)
            check_settings(settings)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return USER_ERROR_EXIT_CODE
    from guided_diffusion.runs.distributed import run_on_all_ranks  # imports torch, which takes seconds

    return run_on_all_ranks(main, settings, given_flags(args))


def given_flags(args: Sequence[str]) -> set[str]:
    """The names of the settings that stand on the command line, with underscores."""
    return {arg[2:].split("=")[0].replace("-", "_") for arg in args if arg.startswith("--") and len(arg) > 2}


@contextlib.contextmanager
def _silent_unless(speaking: bool) -> Iterator[None]:
    if speaking:
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield
