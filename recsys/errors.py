"""The error tree. Exit code 2 or HTTP 400 for what the caller can mend, 1 or 503 for what the service lacks.

ShelftalkError
├── DataError            the data folder, a table or too many of its rows     exit 2
├── SettingsError        an unknown setting or a value that is not allowed    exit 2
├── EncoderError         the text encoder is missing or not what it should be exit 2
├── RequestError         a request's parameter; names it                      exit 2, HTTP 400
├── StoreError           the event store can't be used at the moment          exit 1, HTTP 503
└── BundleError          a bundle is damaged, too new or absent               exit 2, HTTP 503
"""

from __future__ import annotations

from features.errors import DataError, EncoderError, SettingsError, ShelftalkError

__all__ = ["BundleError", "DataError", "EncoderError", "RequestError", "SettingsError", "ShelftalkError", "StoreError"]


class RequestError(ShelftalkError):
    """A request can't be answered as it stands; `parameter` names what to mend."""

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(message)
        self.parameter = parameter

    def __reduce__(self) -> tuple[type[RequestError], tuple[str, str]]:
        """Both arguments, so that the error can cross from a worker process."""
        return type(self), (self.parameter, str(self))


class BundleError(ShelftalkError):
    """A bundle can't be used; its text names the file or version and what to do."""


class StoreError(ShelftalkError):
    """The event store can't be used at the moment; what was to be written is not acknowledged."""
