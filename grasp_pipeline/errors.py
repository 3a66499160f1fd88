"""Errors that a user can act on: one sentence that names the thing and says what to do."""

from __future__ import annotations


class GraspError(Exception):
    """Base of every error whose message is meant for the user as it stands."""


class InputError(GraspError):
    """A file, row, column or value of the input cannot be used."""


class ConfigError(GraspError):
    """A setting, alone or together with the data, asks for something impossible."""


class StoreError(GraspError):
    """A table is missing, has an unexpected schema, or lost a concurrent write."""


class TrainingError(GraspError):
    """A model diverged or does not fit the data it was asked to train on."""
