"""The one list of methods: what is in it, and that nothing is named twice."""

import dataclasses

import pytest
import smoke_run

from ssvi_jax import methods
from ssvi_jax.methods import METHODS, Method
from ssvi_jax.training.run_config import Config, Data, Run, Training

FOREIGN = {
    "ssvi": ("--dropout-rate", ".5"),
    "deterministic": ("--sparsity", ".5"),
    "rigl": ("--removal", "snr"),
    "set": ("--grow-batches", "2"),
    "static": ("--replacement-rate", ".5"),
    "masked_bnn": ("--grow-at-mean",),
    "magnitude": ("--replacement-end", ".5"),
    "svd": ("--sparsity=.5",),
    "ivon": ("--kl-scale", "1"),
    "ssvi_ivon": ("--kl-scale", "1"),
    "rank1": ("--prior-std", ".3"),
    "batch_ensemble": ("--fast-prior", "cauchy"),
    "ensemble": ("--bound", "mixture"),
    "ssvi_ensemble": ("--no-fast-relative-sigma",),
    "ssvi_mixture": ("--prune-at", ".5"),
    "ssvi_ivon_ensemble": ("--kl-scale", "1"),
    "ssvi_ivon_mixture": ("--sigma-init", ".1"),
    "mc_dropout": ("--members", "2"),
}
"""Method → a flag that only others have."""


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_a_frozen_dataclass_of_its_own_settings(name):
    method = METHODS[name]
    assert method.name == name
    assert issubclass(method, Method)
    assert getattr(methods, method.__name__) is method
    assert {*method.fixed} <= {*method.names()}
    assert {*method.training} <= {*Training.names()}
    settings = method()
    assert settings == method.of(settings.as_dict())
    for field in dataclasses.fields(method):
        assert (
            field.metadata or field.type in (bool, str) or "Literal" in str(field.type)
        ), f"{field.name} has a range, which nothing checks"
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.name = "x"  # type: ignore[misc]


@pytest.mark.parametrize("name", METHODS)
def test_a_name_is_of_one_setting(name):
    groups = (METHODS[name], Training, Data, Run)
    names = [name for group in groups for name in group.names()]
    assert len(names) == len(set(names))
    config = Config.of({"method": name})
    assert config.values().keys() == config.as_dict().keys() == set(names)


def test_every_method_refuses_the_settings_of_others():
    assert FOREIGN.keys() == METHODS.keys()


@pytest.mark.parametrize("name", FOREIGN)
def test_a_flag_that_only_others_have_is_refused(name, tmp_path):
    flag, *value = FOREIGN[name]
    out = tmp_path / "run"
    flags = ("--method", name, flag, *value, "--out", out)
    said = smoke_run.refused(*smoke_run.TINY, *flags)
    flag = flag.partition("=")[0].replace("--no-", "--")
    assert f"{flag}: no setting of the method {name}; leave it out" in said
    assert not out.exists()


def test_an_unknown_method_is_refused_with_those_there_are():
    said = smoke_run.refused("--method", "x")
    assert f"--method: got 'x', allowed: {', '.join(sorted(METHODS))}." in said
