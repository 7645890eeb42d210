"""The filter language: `category:Books AND (price<20 OR brand!="Acme | Co")`, read into an expression and written back.

    expression = conjunction { ("OR" | "|") conjunction }
    conjunction = term { "AND" term }
    term = "NOT" term | "(" expression ")" | column operator value
    operator = ":" | "=" | "!=" | "<" | "<=" | ">" | ">="

AND, OR and NOT are upper-case words with white space around them. A value goes up to the next ` AND `, ` OR `, `|` or
an unbalanced `)`, so that `title:Zork (1980)` needs no quotes; a value or column with one of those, with white
space at an end or with `=` at its beginning, stands in double quotes, in which a backslash goes before `"` and itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from recsys.errors import RequestError

EQUALS, DIFFERS = ":", "!="
ORDERS = ("<=", ">=", "<", ">")
MAX_LENGTH = 4000
"""Characters of one filter; what is longer is a mistake, and takes longer to read than a list takes to make."""
MAX_DEPTH = 50
_OPERATOR = re.compile(r"!=|<=|>=|<|>|:|=")
_COLUMN = re.compile(r'[^"():=<>!|]+')
_QUOTED = re.compile(r'"((?:[^"\\]|\\["\\])*)"')
_WORD = re.compile(r"(AND|OR|NOT)(?=[\s(\"]|$)")
_END_OF_VALUE = re.compile(r"\s+(?:AND|OR)(?=[\s(]|$)|[|()]|$")
_SHOWN = 80


@dataclass(frozen=True)
class Comparison:
    """One column against one value; `operator` is `:` (is, or has in its list), `!=`, `<`, `<=`, `>` or `>=`."""

    column: str
    operator: str
    value: str

    def __str__(self) -> str:
        return f"{_written(self.column, _COLUMN)}{self.operator}{_written(self.value, _PLAIN_VALUE)}"


class _Hashed:
    """Hashed once: masks are looked up by expression with every request, and a rule may name a thousand items."""

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((type(self), *vars(self).values()))


@dataclass(frozen=True)
class AllOf(_Hashed):
    """Every part must hold; none: every item does."""

    parts: tuple[Filter, ...]
    __hash__ = _Hashed.__hash__

    def __str__(self) -> str:
        return " AND ".join(f"({part})" if isinstance(part, (AnyOf, AllOf)) else str(part) for part in self.parts)


@dataclass(frozen=True)
class AnyOf(_Hashed):
    """One part must hold."""

    parts: tuple[Filter, ...]
    __hash__ = _Hashed.__hash__

    def __str__(self) -> str:
        return " OR ".join(f"({part})" if isinstance(part, AnyOf) else str(part) for part in self.parts)


@dataclass(frozen=True)
class Not(_Hashed):
    """The part must not hold."""

    part: Filter
    __hash__ = _Hashed.__hash__

    def __str__(self) -> str:
        return f"NOT ({self.part})"


Filter = Comparison | AllOf | AnyOf | Not
Term = tuple[str, str] | Filter
"""What a request holds: an expression, or a plain (column, value)."""
EVERYTHING = AllOf(())
# A value that begins with = would be read with the < or > before it.
_PLAIN_VALUE = re.compile(r"[^\s\"|()=](?:[^\"|()]*[^\s\"|()])?")


def parse_filter(text: str, parameter: str = "filter") -> Filter:
    """The expression that `text` holds; RequestError, naming `parameter`, says where it can't be read."""
    if len(text) > MAX_LENGTH:
        raise RequestError(parameter, f"{parameter} has {len(text)} characters; at most {MAX_LENGTH} are allowed")
    return _Reader(text, parameter).read()


def term_of(expression: Filter) -> Term:
    """The plain pair where the expression is one `column:value`: repeated ones of one column are alternatives."""
    if isinstance(expression, Comparison) and expression.operator == EQUALS:
        return expression.column, expression.value
    return expression


def combined(terms: Iterable[Term]) -> Filter:
    """All terms in one expression in normal form, equal for equal questions: plain pairs of one column are
    alternatives, and everything else must hold.
    """
    alternatives: dict[str, list[Filter]] = {}
    parts: list[Filter] = []
    for term in terms:
        if isinstance(term, tuple):
            alternatives.setdefault(term[0], []).append(Comparison(term[0], EQUALS, term[1]))
        else:
            parts.append(term)
    parts += [AnyOf(tuple(values)) for values in alternatives.values()]
    return normalised(AllOf(tuple(parts)))


def normalised(expression: Filter) -> Filter:
    """The same filter with nested groups of one kind joined, parts sorted and repeats gone."""
    if isinstance(expression, Comparison):
        return expression
    if isinstance(expression, Not):
        return Not(normalised(expression.part))
    kind = type(expression)
    parts: list[Filter] = []
    for part in map(normalised, expression.parts):
        parts += part.parts if isinstance(part, kind) else [part]
    distinct = sorted(set(parts), key=str)
    return distinct[0] if len(distinct) == 1 else kind(tuple(distinct))


def _written(text: str, plain: re.Pattern[str]) -> str:
    """`text` bare where it reads back as itself, else in quotes."""
    bare = plain.fullmatch(text) and not re.search(r"\b(AND|OR|NOT)\b", text) and text == text.strip()
    return text if bare else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class _Reader:
    """Recursive descent over one text; `_at` is the next character."""

    def __init__(self, text: str, parameter: str) -> None:
        self._text, self._at, self._depth, self._parameter = text, 0, 0, parameter

    def read(self) -> Filter:
        expression = self._expression()
        if self._at < len(self._text):
            raise self._error("expected AND, OR or the end")
        return expression

    def _expression(self) -> Filter:
        parts = [self._conjunction()]
        while self._skip("|") or self._word("OR"):
            parts.append(self._conjunction())
        return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))

    def _conjunction(self) -> Filter:
        parts = [self._term()]
        while self._word("AND"):
            parts.append(self._term())
        return parts[0] if len(parts) == 1 else AllOf(tuple(parts))

    def _term(self) -> Filter:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error(f"more than {MAX_DEPTH} levels")
        try:
            if self._word("NOT"):
                return Not(self._term())
            if not self._skip("("):
                return self._comparison()
            inner = self._expression()
            if not self._skip(")"):
                raise self._error("expected )")
            return inner
        finally:
            self._depth -= 1

    def _comparison(self) -> Comparison:
        column = self._quoted()
        if column is None:
            found = _COLUMN.match(self._text, self._at)
            column = found[0].strip() if found else ""
            self._at = found.end() if found else self._at
        self._spaces()
        operator = _OPERATOR.match(self._text, self._at)
        if not column or operator is None:
            raise self._error("expected column:value, such as filter=category:Books or filter=price<20")
        self._at = operator.end()
        value = self._value()
        return Comparison(column, EQUALS if operator[0] == "=" else operator[0], value)

    def _value(self) -> str:
        value = self._quoted()
        if value is None:
            value = self._text[self._at : self._bare_end()].strip()
            self._at = self._bare_end()
        if not value:
            raise self._error('expected a value; write one that begins with ( or | in "quotes"')
        return value

    def _bare_end(self) -> int:
        """Where an unquoted value ends: parentheses within it are its own as long as they are balanced."""
        at, depth = self._at, 0
        while True:
            found = _END_OF_VALUE.search(self._text, at)
            end = len(self._text) if found is None else found.start()
            mark = self._text[end : end + 1]
            if mark == "(" and self._text[self._at : end].strip():
                depth += 1
            elif mark == ")" and depth:
                depth -= 1
            elif depth == 0 or end == len(self._text):
                return end
            at = max(end + 1, at + 1)

    def _quoted(self) -> str | None:
        self._spaces()
        if not self._text.startswith('"', self._at):
            return None
        found = _QUOTED.match(self._text, self._at)
        if found is None:
            raise self._error('a " without its end, or a backslash before another character than " or a backslash')
        self._at = found.end()
        return re.sub(r"\\(.)", r"\1", found[1], flags=re.DOTALL)

    def _word(self, word: str) -> bool:
        self._spaces()
        found = _WORD.match(self._text, self._at)
        if found is None or found[1] != word:
            return False
        self._at = found.end()
        return True

    def _skip(self, mark: str) -> bool:
        self._spaces()
        if not self._text.startswith(mark, self._at):
            return False
        self._at += len(mark)
        return True

    def _spaces(self) -> None:
        while self._at < len(self._text) and self._text[self._at].isspace():
            self._at += 1

    def _error(self, problem: str) -> RequestError:
        shown = self._text if len(self._text) <= _SHOWN else self._text[:_SHOWN] + "..."
        return RequestError(self._parameter, f"{self._parameter}={shown!r}: {problem} (at character {self._at + 1})")
