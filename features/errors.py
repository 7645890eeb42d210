"""The errors a caller can mend. `recsys.errors` shows the whole tree and adds the ones of bundles and requests."""

from __future__ import annotations


class ShelftalkError(Exception):
    """Base of every error that Shelftalk raises on purpose: its text says what, which value and what to do."""


class DataError(ShelftalkError):
    """The data folder, a table or too many of its rows can't be used."""


class SettingsError(ShelftalkError):
    """A setting is unknown or its value is not allowed."""


class EncoderError(ShelftalkError):
    """The text encoder can't be found, or is not the one it should be."""
