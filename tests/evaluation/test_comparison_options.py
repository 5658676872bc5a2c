from pathlib import Path

import pytest

from ssvi_jax.core.errors import InputError
from ssvi_jax.evaluation.comparison import options
from ssvi_jax.methods import METHODS, SSVI


def configure(*flags, method="ssvi", seed=0, preset="laptop", dataset="cifar10"):
    """The settings of one run by name, and what its method kept from the flags."""
    config, kept = options.configure(
        flags, method=method, seed=seed, preset=preset, dataset=dataset, out=Path("o")
    )
    return config.values(), kept


def test_methods_are_those_there_are():
    every = options.Comparison(methods="all", seeds=2).seeds_of
    assert every == dict.fromkeys(options.NAMES, 2)
    assert tuple(every) == options.NAMES
    assert set(options.NAMES) == METHODS.keys() | options.VARIANTS.keys()
    assert not METHODS.keys() & options.VARIANTS.keys()


def test_names_are_each_there_once_in_the_order_given():
    names = options.Comparison(methods="rigl, ssvi,rigl").seeds_of
    assert list(names.items()) == [("rigl", 3), ("ssvi", 3)]


def test_a_method_may_have_seeds_of_its_own():
    found = options.Comparison(methods="ssvi:5, rigl,all:1", seeds=2).seeds_of
    assert (found.pop("ssvi"), found.pop("rigl")) == (5, 2)
    assert set(found.values()) == {1}


@pytest.mark.parametrize("number", ["", "0", "-1", "x", "1.5"])
def test_a_number_of_seeds_is_one(number):
    with pytest.raises(InputError, match=r"--methods: got ssvi:.*, allowed: NAME:N"):
        _ = options.Comparison(methods=f"ssvi:{number}").seeds_of


@pytest.mark.parametrize("methods", ["", "ssvi,who", "ssvi,"])
def test_an_unknown_method_lists_the_known_ones(methods):
    words = r"--methods: got '(who)?', allowed: all, "
    with pytest.raises(InputError, match=words) as e:
        _ = options.Comparison(methods=methods).seeds_of
    assert all(name in str(e.value) for name in options.NAMES)


def test_by_default_nothing_is_written_over_the_committed_results():
    found, _ = options.parse(["--methods", "ssvi"])
    assert found.out.parts[0] == "runs"  # which git ignores
    assert found.reference.parts[0] == "results"


def test_flags_that_are_not_the_comparisons_are_left_for_the_runs():
    argv = ["--methods", "ssvi", "--epochs", "3", "--seeds", "2", "--nesterov"]
    parsed, rest = options.parse([*argv, "--ood", "none", "--width", "1"])
    assert (parsed.methods, parsed.seeds, parsed.ood) == ("ssvi", 2, ("none",))
    assert rest == ["--epochs", "3", "--nesterov", "--width", "1"]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gets_the_presets_network_and_epochs_and_its_own_rest(method):
    found, kept = configure(method=method, seed=2)
    assert (found["width"], found["epochs"]) == (1.0, 10)  # never the wide network
    assert (found["method"], found["seed"], found["figures"]) == (method, 2, False)
    assert found["out"] == Path("o") / "runs" / f"{method}-2"
    assert kept == []
    assert found.items() >= METHODS[method].defining().items()


def test_flags_win_but_for_what_defines_a_method():
    flags = ["--sparsity", "0.9", "--epochs", "3", "--width", "0.5"]
    sparse, kept = configure(*flags)
    assert sparse.items() >= {"sparsity": 0.9, "epochs": 3, "width": 0.5}.items()
    assert kept == []
    dense, kept = configure(*flags, method="deterministic")
    assert (dense["epochs"], dense["width"]) == (3, 0.5)
    assert "sparsity" not in dense
    assert kept == ["sparsity"]


def test_what_defines_a_method_wins_over_flags():
    found, kept = configure("--kl-scale", "0.5", method="rank1")
    assert (found["kl_scale"], kept) == (1.0, ["kl_scale"])
    found, kept = configure("--learning-rate", "0.7", method="ivon")
    assert (found["learning_rate"], kept) == (0.2, ["learning_rate"])
    found, kept = configure("--kl-scale", "0.5")
    assert (found["kl_scale"], kept) == (0.5, [])


@pytest.mark.parametrize("name", options.VARIANTS)
def test_a_variant_is_a_method_with_other_values(name):
    method, changes = options.VARIANTS[name]
    found, kept = configure("--epochs", "3", method=name, seed=1)
    assert (found["method"], found["epochs"], kept) == (method, 3, [])
    assert found["out"] == Path("o") / "runs" / f"{name}-1"
    for field, value in changes.items():
        assert found[field] == (getattr(SSVI, field) if value is None else value)
    plain, _ = configure("--epochs", "3", method=method, seed=1)
    assert found.keys() == plain.keys()
    different = {field for field in found if found[field] != plain[field]}
    by_size = {"width"} if name == options.SMALL else set()
    assert different == {*changes, *by_size, "out"}


def test_a_variants_own_values_stay_and_others_follow_the_flags():
    found, kept = configure("--sparsity", "0.9", method="vi_flipout")
    assert (found["sparsity"], kept) == (0.0, ["sparsity"])
    found, kept = configure("--sparsity", "0.9", method="rank1_sparse")
    assert (found["sparsity"], kept) == (0.9, [])


def test_the_small_network_has_as_many_weights_as_the_sparse_ones_keep():
    found, kept = configure("--sparsity", "0.75", "--width", "2", method=options.SMALL)
    assert (found["width"], found["method"]) == (1.0, "deterministic")
    assert kept == ["sparsity"]
    assert configure(method=options.SMALL)[0]["width"] == 0.2236


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--method", "rigl"], "--method: a comparison has several; .* --methods"),
        (["--seed", "5"], "--seed: a comparison has several; .* --seeds"),
        (["--resume"], "--resume: a comparison always continues"),
    ],
)
def test_flags_that_the_comparison_sets_itself_are_refused(flags, words):
    with pytest.raises(InputError, match=words):
        configure(*flags)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"seeds": 0}, "--seeds: got 0"),
        ({"images": -1}, "--images: got -1, allowed: 0"),
        ({"verify": True, "write_reference": True}, "--verify: got --write-reference"),
    ],
)
def test_bad_options_are_refused(values, words):
    with pytest.raises(InputError, match=words):
        options.Comparison(**values)
