"""How much an event still counts, by its age."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from features.tables import Events, FloatArray


def half_life(events: Events, recent_share: float) -> float | None:
    """The time span that the newest `recent_share` of events took, in seconds, so that it fits shops of any pace; None
    where there is no clock.
    """
    times = events.times
    if not events.has_clock or not len(times):
        return None
    newest = float(times.max())
    span = newest - float(np.quantile(times, 1 - recent_share))
    if span <= 0:  # a clock so coarse that the newest share is one moment
        span = newest - float(times[times < newest].max(initial=newest - 1))
    return max(span, 1.0)


def time_decay(events: Events, span: float | None) -> npt.NDArray[np.float64]:
    """Each event's weight, (n_events,), halved every `span` seconds before the newest; 1 without one."""
    if span is None:
        return np.ones(len(events))
    return np.asarray(0.5 ** ((float(events.times.max()) - events.times) / span), np.float64)


def continued(counts: FloatArray, later: FloatArray) -> npt.NDArray[np.float64]:
    """Decayed counts (n_items,) after the `later` events, decayed likewise, have come: the old counts make room for the
    new ones, so that the total stays what it was. While events keep their pace that is what decay alone would make of
    both; and it holds, too, where some of the later events were not seen or have stopped coming.
    """
    before, added = float(counts.sum()), float(later.sum())
    if before <= 0 or added <= 0:
        return np.asarray(counts + later, np.float64)
    if added >= before:
        return np.asarray(later * (before / added), np.float64)
    return np.asarray(counts * (1 - added / before) + later, np.float64)
