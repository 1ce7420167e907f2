"""The entries of one object of a JSON file, one at a time: files that would not fit in memory as a tree."""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Callable, Iterator
from typing import IO, Any

from d2net.data.files import DataError, check_regular, reading

_BLOCK = 1 << 22
_TOKEN = 16  # characters; a token that is cut short begins no further before the end, strings apart
_SPACE = re.compile(r"[ \t\n\r]*")
_MARKS = (b"\xff\xfe", b"\xfe\xff")


class _Text:
    """A window of the file's text that moves on."""

    def __init__(self, path: str | os.PathLike, file: IO[bytes]):
        self.path, self.file = path, file
        self.decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self.text, self.at, self.before, self.bytes, self.whole = "", 0, 0, 0, False

    def more(self) -> None:
        # As much again as is there, so that a long value is not begun too often.
        block = self.file.read(max(_BLOCK, len(self.text) - self.at))
        if not self.bytes and block[:2] in _MARKS:
            raise DataError(f"{self.path} is UTF-16 text; save it as UTF-8")
        try:
            text = self.decode(block, not block)
        except UnicodeDecodeError as error:
            place = self.bytes + error.start
            raise DataError(
                f"{self.path} is not UTF-8 text: byte {place} is {error.object[error.start]:#04x}"
            ) from error
        self.whole, self.bytes = not block, self.bytes + len(block)
        self.text, self.before, self.at = self.text[self.at :] + text, self.before + self.at, 0

    def peek(self) -> str:
        """The next character that is no space; nothing at the end."""
        while True:
            space = _SPACE.match(self.text, self.at)
            self.at = space.end() if space else self.at
            if self.at < len(self.text) or self.whole:
                return self.text[self.at : self.at + 1]
            self.more()

    def take(self, *wanted: str) -> str:
        if (found := self.peek()) not in wanted or not found:
            raise ValueError(f"expected {' or '.join(wanted)} at character {self.before + self.at}")
        self.at += 1
        return found

    def value(self, decoder: json.JSONDecoder) -> Any:
        self.peek()
        while True:
            try:
                value, end = decoder.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos >= len(self.text) - _TOKEN
                if self.whole or not cut:
                    raise ValueError(f"{error.msg} at character {self.before + error.pos}") from error
            else:
                if end < len(self.text) or self.whole:  # a number may go on
                    self.at = end
                    return value
            self.more()


def _entries(text: _Text, decoder: json.JSONDecoder) -> Iterator[str]:
    """The keys of the object that follows; who asks for them reads each one's value."""
    text.take("{")
    if text.peek() == "}":
        text.take("}")
        return
    seen: set[str] = set()
    while True:
        if text.peek() != '"':
            raise ValueError(f"expected a key at character {text.before + text.at}")
        key = text.value(decoder)
        if key in seen:
            raise DataError(f"{text.path}: key {key!r} occurs twice")
        seen.add(key)
        text.take(":")
        yield key
        if text.take(",", "}") == "}":
            return


def json_items(
    path: str | os.PathLike, key: str, pairs: Callable[[list[tuple[str, Any]]], Any]
) -> Iterator[tuple[str, Any]]:
    """(name, value) of each entry of the object under the top-level `key`; keys that occur twice there are an error.

    Args:
        pairs: makes objects within the values of their pairs.

    Raises:
        DataError: not JSON, or without such an object; when the entry is asked for.
    """
    with reading(path, "JSON"):
        check_regular(path)
        decoder = json.JSONDecoder(object_pairs_hook=pairs)
        with open(path, "rb") as file:
            text, found = _Text(path, file), False
            if text.peek() == "{":
                for name in _entries(text, decoder):
                    if name == key and text.peek() == "{":
                        found = True
                        for entry in _entries(text, decoder):
                            yield entry, text.value(decoder)
                    else:
                        text.value(decoder)
                if text.peek():
                    raise ValueError(f"extra data at character {text.before + text.at}")
            else:
                text.value(decoder)
            if not found:
                raise DataError(f"{path}: expected an object with `{key}`, as ActivityNet's result files have")
