"""What every command needs: settings from the command line, errors in one line, files that appear whole.

This small file stands in each of the three script folders, which do not import one another.
"""

import contextlib
import dataclasses
import difflib
import errno
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import tyro
from tyro.constructors import PrimitiveConstructorSpec

Settings = TypeVar("Settings")

PathText = Annotated[str, "a path, or the address of something in a cloud"]

YES = ("true", "yes", "t", "y", "1")
NO = ("false", "no", "f", "n", "0")
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
DISK_ERRORS += (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP)
USER_ERROR_EXIT_CODE = 2


class UserError(Exception):
    """A mistake of the user: told in one line, without a traceback, with exit code 2.

    `problems` are further lines, one for each thing found wrong (by file, say).
    """

    def __init__(self, message: str, problems: Sequence[str] = ()):
        super().__init__("\n  ".join([message, *problems]))


def parse_yes_no(words: Sequence[str]) -> bool:
    """A bare flag means yes; otherwise one of YES or NO, in any case."""
    if not words or words[0].lower() in YES:
        return True
    if words[0].lower() in NO:
        return False
    raise ValueError(f"{words[0]!r} is neither a yes ({', '.join(YES)}) nor a no ({', '.join(NO)})")


YesNo = Annotated[
    bool,
    PrimitiveConstructorSpec(
        nargs=(0, 1),
        metavar="[True|False]",
        instance_from_str=parse_yes_no,
        is_instance=lambda value: isinstance(value, bool),
        str_from_instance=lambda value: [str(value)],
    ),
]


def parse_settings(
    settings_class: type[Settings],
    args: Sequence[str] | None = None,
    description: str = "",
    groups: Mapping[str, tuple[type, str]] | None = None,
) -> Settings:
    """The dataclass `settings_class`, filled from `args` (default: sys.argv[1:]). Raises UserError for a wrong one.

    --img_size and --img-size are the same flag; --help writes the latter if the class has DASHES = True. `groups`, in
    the order of --help: by title, a dataclass that `settings_class` inherits from, and a sentence on it.
    """
    args = [with_home(arg) for arg in (sys.argv[1:] if args is None else args)]
    refuse_unknown_flags(settings_class, args)
    refuse_empty_paths(settings_class, args)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed = tyro.cli(
                _grouped(groups) if groups else settings_class,
                args=args,
                description=description or None,
                use_underscores=not getattr(settings_class, "DASHES", False),
                config=(tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands, tyro.conf.OmitArgPrefixes),
            )
    except SystemExit as exit_:
        if not exit_.code:
            raise
        lines = [line.strip("│╭╮╰╯─ ") for line in said.getvalue().splitlines()[1:]]
        text = " ".join(lines).split("Argument helptext:")[0].split("For full helptext")[0].strip()
        raise UserError(f"{text} (--help lists all settings)") from None
    if not groups:
        return parsed
    return settings_class(**{name: value for group in vars(parsed).values() for name, value in vars(group).items()})


def with_home(arg: str) -> str:
    """`arg` with the ~ after its = expanded, as shells do at the beginning of a word alone."""
    flag, _, value = arg.partition("=")
    return f"{flag}={os.path.expanduser(value)}" if flag.startswith("--") and value.startswith("~") else arg


def _grouped(groups: Mapping[str, tuple[type, str]]) -> type:
    """A dataclass with one field for each group, which --help shows under its title."""
    fields = [
        (
            f"group_{number}",
            Annotated[group, tyro.conf.arg(name=title, help=text)],
            dataclasses.field(default_factory=group),
        )
        for number, (title, (group, text)) in enumerate(groups.items())
    ]
    return dataclasses.make_dataclass("Groups", fields, frozen=True)


def refuse_unknown_flags(settings_class: type, args: Sequence[str]) -> None:
    """Raise UserError for the first flag of `args` that is no setting, naming the one that is spelt most like it."""
    known = [field.name for field in dataclasses.fields(settings_class)]
    for arg in args:
        name = arg[2:].split("=")[0].replace("-", "_")
        if not arg.startswith("--") or name in known or name == "help" or name.startswith("tyro_"):
            continue
        nearest = difflib.get_close_matches(name, known, n=1)
        spelt = "_".join(nearest).replace("_", "-" if getattr(settings_class, "DASHES", False) else "_")
        hint = f": did you mean --{spelt}?" if nearest else ""
        raise UserError(f"there is no flag {arg.split('=')[0]}{hint} (--help lists all settings)")


def refuse_empty_paths(settings_class: type, args: Sequence[str]) -> None:
    """Raise UserError for a path of no letters, as of an unset variable of a shell: it would be the present folder, or
    none at all."""
    hints = get_type_hints(settings_class, include_extras=True)
    name = ""
    for arg in args:
        word = arg
        if arg.startswith("--"):
            name, equals, value = arg[2:].partition("=")
            word = value if equals else None
        if word == "" and _holds_paths(hints.get(name.replace("-", "_"))):
            raise UserError(f"--{name}: expected is a path, and the word is empty")


def _holds_paths(hint: Any) -> bool:
    return hint in (Path, PathText) or any(map(_holds_paths, get_args(hint)))


class _Lasting(io.FileIO):
    """Standard output or error that goes nowhere once who reads it has gone (tee, head, a terminal)."""

    def write(self, data) -> int | None:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            return memoryview(data).nbytes


def print_whatever_happens() -> None:
    """Have no command end in the middle for what it prints: letters that the encoding lacks are printed as escapes,
    and what nobody reads any more goes nowhere."""
    for number, name in enumerate(("stdout", "stderr"), start=1):
        stream = getattr(sys, name)
        if not isinstance(stream, io.TextIOWrapper):
            continue
        stream.reconfigure(errors="backslashreplace")
        with contextlib.suppress(OSError):  # one that is no file, in a test
            raw = getattr(stream.buffer, "raw", stream.buffer)
            if stream.fileno() == number and not isinstance(raw, _Lasting):
                stream.flush()
                setattr(sys, name, _lasting(stream, number, buffered=raw is not stream.buffer))


def _lasting(stream: io.TextIOWrapper, number: int, buffered: bool) -> io.TextIOWrapper:
    lasting = _Lasting(number, "w", closefd=False)
    how = {"line_buffering": stream.line_buffering, "write_through": stream.write_through}
    return io.TextIOWrapper(io.BufferedWriter(lasting) if buffered else lasting, stream.encoding, stream.errors, **how)


def one_line(error: BaseException) -> str | None:
    """What to tell the user of `error`; None if it is a bug of ours, which deserves its traceback."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
    return None


def run_command(
    main: Callable[[Settings], Any], settings_class: type[Settings], args: Sequence[str] | None = None, description=""
) -> int:
    """Read the settings, call `main` with them, and return the exit code (2 for a mistake of the user)."""
    print_whatever_happens()
    try:
        main(parse_settings(settings_class, args, description))
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        text = one_line(error)
        if text is None:
            raise
        print(f"error: {text}", file=sys.stderr)
        return USER_ERROR_EXIT_CODE
    return 0


@contextlib.contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside `path`, which takes its name when the block ends well, and is deleted otherwise.

    The suffix is kept, so that writers which choose a format by it work.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(prefix=".", suffix=".tmp" + path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~UMASK)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _read_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


UMASK = _read_umask()
