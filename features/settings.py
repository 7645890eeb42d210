"""The base of every component's settings: frozen values, and an unknown key is an error."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A frozen group of settings; each component declares its own beside its code."""

    model_config = ConfigDict(frozen=True, extra="forbid")
