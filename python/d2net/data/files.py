"""Reading users' files, with one boundary for whatever they hold, and writing so that an interruption harms nothing."""

from __future__ import annotations

import errno
import gc
import json
import os
import reprlib
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


class DataError(ValueError):
    """Input that cannot be used; the message names the file, the entry, its value and what to do."""

    def __init__(self, message: str):
        # A file decides what is quoted from it; a line on a terminal it must stay.
        super().__init__(message if len(message) <= 900 else f"{message[:600]} ... {message[-250:]}")


_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 80
_short.maxlist = _short.maxtuple = _short.maxdict = 4
_short.maxlevel = 3


def shown(value: Any) -> str:
    """repr of a value out of a file, cut to what a message can hold."""
    text = _short.repr(value)
    return text if len(text) <= 200 else f"{text[:190]} ..."


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


@contextmanager
def reading(path: str | os.PathLike, what: str, error: type[DataError] = DataError) -> Iterator[None]:
    """A reader's boundary: whatever goes wrong inside is one DataError that names the file.

    Args:
        path: the file; what: what it should be, as "an .npz"; error: the kind to raise.
    """
    try:
        yield
    except DataError as found:
        if str(path) in str(found) and isinstance(found, error):
            raise
        text = str(found) if str(path) in str(found) else f"{path}: {found}"
        raise error(text) from found
    except FileNotFoundError as found:
        raise error(f"no file {path}") from found
    except OSError as found:
        if found.errno is None or found.strerror is None:  # h5py's and zipfile's own
            raise error(f"{path} is truncated or not {what}: {_first_line(found)}") from found
        raise error(f"cannot read {path}: {found.strerror}") from found
    except RecursionError as found:
        raise error(f"{path} is nested too deeply to be {what}") from found
    except MemoryError as found:
        raise error(f"{path}: what it holds, or claims to hold, does not fit in memory") from found
    except Exception as found:
        raise error(f"{path} is truncated or not {what}: {_first_line(found)}") from found


@contextmanager
def uncollected() -> Iterator[None]:
    """Millions of objects are made within, none in a cycle, without a search for cycles among them again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def check_regular(path: str | os.PathLike, error: type[DataError] = DataError) -> None:
    """Refuses what has no end or blocks: pipes, devices and sockets; raises FileNotFoundError where nothing is."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise error(f"{path} is a folder, not a file")
    if not stat.S_ISREG(mode):
        raise error(f"{path} is a pipe, device or socket; save what it gives to a file first")


_MARKS = ((b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"))


def read_text(path: str | os.PathLike, what: str = "text") -> str:
    r"""UTF-8 text whatever the locale, without byte-order mark, line ends as \n."""
    with reading(path, what):
        check_regular(path)
        raw = Path(path).read_bytes()
        for mark, name in _MARKS:
            if raw.startswith(mark):
                raise DataError(f"{path} is {name} text; save it as UTF-8")
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8 text: byte {error.start} is {raw[error.start]:#04x}") from error
        return text.replace("\r\n", "\n").replace("\r", "\n")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        seen: set[str] = set()
        twice = next(k for k, _ in pairs if k in seen or seen.add(k))
        raise DataError(f"key {twice!r} occurs twice")
    return tree


def read_json(path: str | os.PathLike) -> Any:
    """Parses JSON; duplicate keys are an error."""
    with reading(path, "JSON"):
        return json.loads(read_text(path, "JSON"), object_pairs_hook=_unique)


def _destination(path: str | os.PathLike) -> Path:
    """Where to write: a link's target; raises DataError for what a file must not replace."""
    path = Path(path)
    try:
        if path.is_dir():
            raise DataError(f"{path} is a folder; give the name of a file to write")
        real = path.resolve() if path.is_symlink() else path
        if real.exists() and not real.is_file():
            raise DataError(f"{path} is a pipe, device or socket; give the name of a file to write")
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"cannot write {str(path)!r}: {getattr(error, 'strerror', None) or error}") from error
    return real


def check_destination(path: str | os.PathLike, *, make: bool = True) -> None:
    """Makes the folder of `path`, if asked; raises DataError where no file can be written there."""
    _check_folder(_destination(path).parent, make)


def _check_folder(wanted: Path, make: bool) -> None:
    folder = wanted
    try:
        if make:
            folder.mkdir(parents=True, exist_ok=True)
        while not make and not folder.exists() and folder != folder.parent:
            folder = folder.parent  # where the missing ones would be made
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DataError(f"cannot write to the folder {wanted}: {error.strerror}; choose another place") from error


def check_outputs(outputs: Iterable[str | os.PathLike | None], inputs: Iterable[str | os.PathLike | None]) -> None:
    """As check_destination for each output that is given; none may be an input, lie in one, or be another output.

    Folders are made by who writes: what fails before leaves nothing behind.

    Raises:
        DataError: names the file.
    """
    taken = {os.path.realpath(p): f"the input {p}" for p in inputs if p is not None}
    written: set[str] = set()
    above: dict[str, str] = {}  # folders of what is written
    checked: set[Path] = set()
    folders = {real: said for real, said in taken.items() if os.path.isdir(real)}
    for path in outputs:
        if path is None:
            continue
        if (parent := _destination(path).parent) not in checked:
            _check_folder(parent, make=False)
            checked.add(parent)
        if (real := os.path.realpath(path)) in taken:
            raise DataError(f"{path} is {taken[real]} too; give another name to write to")
        parents = [str(p) for p in Path(real).parents]
        if other := above.get(real) or next((p for p in parents if p in written), None):
            raise DataError(f"{path} and the output {other} cannot both be files; give another name to write to")
        written.add(real)
        for p in parents:
            above.setdefault(p, real)
        for folder, said in folders.items():
            if os.path.commonpath([real, folder]) == folder:
                raise DataError(f"{path} lies in {said}, which would read it; give another place to write to")
        taken[real] = "another output"


def is_unicode(name: str) -> bool:
    """Whether UTF-8 can hold it; a file's name may be any bytes, which Python has as lone surrogates."""
    return not any("\ud800" <= c <= "\udfff" for c in name)


def check_file_names(names: Iterable[str], suffix: str, folder: str | os.PathLike) -> None:
    """Raises DataError unless `<name><suffix>` can be files of one folder, on any system."""
    seen: dict[str, str] = {}
    for name in names:
        reason = ""
        if any(c in name for c in "/\\\0:") or name.startswith(".") or name != name.strip():
            reason = "has characters that a file's name cannot have"
        elif len(os.fsencode(name + suffix)) > 250:
            reason = "is too long for a file's name"
        elif (other := seen.setdefault(name.casefold(), name)) != name:
            reason = f"differs from {other!r} in capitals alone, which not all systems tell apart"
        if reason:
            raise DataError(f"{folder}: video {name!r:.200} {reason}; rename it, or write a format of one file")


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it replaces `path` if the block ends well, and goes away if not.

    A symbolic link is followed. Raises DataError where it cannot be written.
    """
    check_destination(path)
    target = _destination(path)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:40]}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask())
        os.replace(temporary, target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            reason = error.strerror or os.strerror(error.errno or errno.EIO)
            raise DataError(f"cannot write {path}: {reason}; what was there before is whole") from error
        raise


def write_atomically(path: str | os.PathLike, write: Callable[[IO[bytes]], object]) -> None:
    """Calls write(file) on a temporary file beside `path`, which it then replaces; raises DataError if it cannot."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        write(file)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes UTF-8 in one step; lone surrogates, which UTF-8 cannot hold, are escaped."""
    write_atomically(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def some(names: Sequence[str], most: int = 3) -> str:
    """The first few names, quoted, with how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(n) for n in names[:most]) + more
