"""The rules to apply now, without those that a catalogue can't."""

from __future__ import annotations

import logging
from collections.abc import Callable

from recsys.attributes import Attributes
from recsys.rules import NO_RULES, Rules
from recsys.wishes import problem_of

logger = logging.getLogger(__name__)


class UsableRules:
    """`given` says which rules there are now. Those that name a column which the catalogue of the `attributes` lacks
    are left out: a rule must never make requests fail.
    """

    def __init__(self, given: Callable[[], Rules], attributes: Attributes) -> None:
        self._given, self._attributes = given, attributes
        self._last: tuple[Rules, Rules] = (NO_RULES, NO_RULES)

    def now(self) -> Rules:
        """Those that can be applied."""
        given, usable = self._last
        current = self._given()
        if current is not given:
            for problem in self.problems_of(current):
                logger.error("left out: %s", problem)
            usable = Rules(rules=tuple(rule for rule in current.rules if not problem_of(rule, self._attributes)))
            self._last = (current, usable)
        return usable

    def problems_of(self, rules: Rules) -> list[str]:
        """What is wrong with the rules over this catalogue, such as a column that it lacks; [] where nothing is."""
        return [problem for rule in rules.rules if (problem := problem_of(rule, self._attributes))]
