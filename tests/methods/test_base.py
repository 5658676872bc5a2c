"""The one list of methods: what it names exists, and nothing is named twice."""

import dataclasses
import importlib

import pytest

from ssvi_jax.training import registry
from ssvi_jax.training.run_config import Config

FIELDS = {field.name for field in dataclasses.fields(Config)}


@pytest.mark.parametrize("name", registry.METHODS)
def test_an_entry_names_what_exists(name):
    entry = registry.METHODS[name]
    module, function = entry.build.split(":")
    found = importlib.import_module(f"ssvi_jax.methods.{module}")
    assert getattr(found, function).__module__ == found.__name__
    assert entry.changes.keys() <= FIELDS
    assert set(entry.reads) <= registry.SETTINGS.keys()


def test_a_setting_is_of_one_group_and_of_some_method():
    fields = [field for group, _ in registry.SETTINGS.values() for field in group]
    assert len(fields) == len(set(fields))
    assert set(fields) <= FIELDS
    assert all(map(registry.reading, registry.SETTINGS))
    assert registry.reading("pruning") == ("magnitude", "svd")
