"""A rules file that is read again when it changes: a broken one is reported, and the rules before it stay."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from recsys.errors import RequestError, SettingsError
from recsys.files import locked, replace_text
from recsys.rules import NO_RULES, Rules, rules_from_toml

CHECK_SECONDS = 1.0
logger = logging.getLogger(__name__)
_Stamp = tuple[int, int, int] | None


class RulesFile:
    """The current rules of a TOML file. Every process that serves has its own; a change reaches each within a second.

    `problem` says why the file as it is now can't be used ("": it is in use).
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """SettingsError where the file is there and can't be read: a service doesn't start with rules it ignores."""
        self.path, self.problem = path, ""
        self._clock, self._lock = clock, threading.Lock()
        self._stamp = _stamp(path)
        self._rules = _read(path)
        self._checked = clock()

    def current(self) -> Rules:
        """The rules to apply now; it looks at the file at most once a second, and never raises."""
        if self._clock() - self._checked >= CHECK_SECONDS and self._lock.acquire(blocking=False):
            try:
                self._checked = self._clock()
                self._look()
            finally:
                self._lock.release()
        return self._rules

    def replace(self, rules: Rules) -> None:
        """Make `rules` the content of the file, in one step, and apply them from now on."""
        with self._lock:
            try:
                with locked(self.path.with_name(f".{self.path.name}.lock")):
                    replace_text(self.path, rules.to_toml())
            except OSError as error:
                raise RequestError("rules", f"the rules file can't be written: {error.strerror}") from None
            self._rules, self.problem, self._stamp = rules, "", _stamp(self.path)

    def _look(self) -> None:
        stamp = _stamp(self.path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._rules, self.problem = _read(self.path), ""
            logger.info("%d rules from %s", len(self._rules.rules), self.path)
        except SettingsError as error:
            self.problem = str(error)
            logger.error("the rules stay as they were: %s", error)  # noqa: TRY400  (the text says it all)


def _read(path: Path) -> Rules:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return NO_RULES
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"rules file {path} can't be read: {error}") from None
    return rules_from_toml(text, f"rules file {path}")


def _stamp(path: Path) -> _Stamp:
    """What changes when the file does: a new file may come in the same tick of the clock, so its number counts too."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
