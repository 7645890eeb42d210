"""Rules: what is taken, what is refused and how, and a file that is read again when it changes."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from recsys.errors import RequestError, SettingsError
from recsys.rules import NO_RULES, rules_from_json, rules_from_toml
from recsys.rules_file import RulesFile

EXAMPLE = """
[[rules]]
name = "welcome"
action = "pin"
items = ["i03", "i04"]
position = 1

[[rules]]
name = "summer"
action = "boost"
filter = "category:Garden AND price<50"
factor = 2.0
from = 2026-06-01T00:00:00Z
until = 2026-09-01T00:00:00Z

[[rules]]
name = "variety"
action = "cap"
column = "category"
most = 2
first = 10
"""


def test_the_three_forms_say_the_same() -> None:
    rules = rules_from_toml(EXAMPLE, "rules.toml")
    assert [rule.name for rule in rules.rules] == ["welcome", "summer", "variety"]
    assert rules_from_toml(rules.to_toml(), "again") == rules
    assert rules_from_json(json.dumps(rules.document()).encode()) == rules
    assert rules_from_json(rules.model_dump_json(by_alias=True).encode()) == rules, "with every key named"


def rule(**keys: object) -> str:
    lines = [f"{key} = {value}" for key, value in ({"name": '"r"'} | keys).items()]
    return "[[rules]]\n" + "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[rules]", "not TOML"),
        ("[[rule]]\nname = 'x'", "unknown key 'rule'"),
        (rule(action='"pin"', items='["a"]'), "'r'.*pin needs 'position'"),
        (rule(action='"pin"', position="1"), "either 'items' or 'filter'"),
        (rule(action='"boost"', items='["a"]', factor="0.5"), "factor.*0.5"),
        (rule(action='"boost"', items='["a"]', factor="2", most="3"), "no use for 'most'"),
        (rule(action='"exclude"', filter='"category"'), "filter.*expected column:value"),
        (rule(action='"cap"', column='"brand"'), "cap needs 'most'"),
        (rule(action='"hide"', items='["a"]'), "action.*hide"),
        (rule(action='"exclude"', items='["a"]', until="2026-01-01T00:00:00"), "until.*timezone"),
        (rule(action='"exclude"', items='["a"]', size="3"), "unknown key 'rules.0.size'"),
        (rule(action='"exclude"', items='["a"]') + "\n" + rule(action='"exclude"', items='["a"]'), "called 'r'"),
    ],
)
def test_a_bad_rule_is_named_with_what_is_wrong(text: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words) as caught:
        rules_from_toml(text, "rules.toml")
    assert str(caught.value).startswith("rules.toml")


def test_a_bad_body_is_a_request_error() -> None:
    with pytest.raises(RequestError, match="pin needs 'position'") as caught:
        rules_from_json(b'{"rules": [{"name": "r", "action": "pin", "items": ["a"]}]}')
    assert caught.value.parameter == "rules"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_changed_file_is_read_after_a_second_and_a_broken_one_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path, clock = tmp_path / "rules.toml", Clock()
    file = RulesFile(path, clock)
    assert file.current() == NO_RULES, "no file, no rules"
    path.write_text(EXAMPLE, encoding="utf-8")
    assert file.current() == NO_RULES, "it looks once a second"
    clock.now = 1.0
    assert len(file.current().rules) == 3
    path.write_text("[[rules]", encoding="utf-8")
    clock.now = 2.0
    assert len(file.current().rules) == 3
    assert "not TOML" in file.problem
    assert [record.levelno for record in caplog.records] == [logging.INFO, logging.ERROR]
    path.write_text("", encoding="utf-8")
    clock.now = 3.0
    assert file.current() == NO_RULES
    assert file.problem == ""


def test_a_broken_file_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text("x", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"rules\.toml"):
        RulesFile(tmp_path / "rules.toml")


def test_new_rules_are_in_the_file_and_in_force_at_once_here_and_soon_elsewhere(tmp_path: Path) -> None:
    clock = Clock()
    here, elsewhere = (RulesFile(tmp_path / "rules.toml", clock) for _ in range(2))
    rules = rules_from_toml(EXAMPLE, "rules.toml")
    here.replace(rules)
    assert here.current() == rules
    clock.now = 1.0
    assert elsewhere.current() == rules
    assert sorted(os.listdir(tmp_path)) == [".rules.toml.lock", "rules.toml"]  # noqa: PTH208


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="can't be written"):
        RulesFile(tmp_path / "nowhere" / "rules.toml").replace(NO_RULES)
