"""How much an event still counts, by its age."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from features.tables import Events


def time_decay(events: Events, recent_share: float | None) -> npt.NDArray[np.float64]:
    """Each event's weight, (n_events,): halved every time span that the newest `recent_share` of events took, so that
    it fits shops of any pace; 1 where that is None or there is no clock.
    """
    times = events.times
    if recent_share is None or not events.has_clock or not len(times):
        return np.ones(len(times))
    newest = float(times.max())
    span = newest - float(np.quantile(times, 1 - recent_share))
    if span <= 0:  # a clock so coarse that the newest share is one moment
        span = newest - float(times[times < newest].max(initial=newest - 1))
    return np.asarray(0.5 ** ((newest - times) / max(span, 1.0)), np.float64)
