import dataclasses
import json
import re
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest

from ssvi_jax import corruptions, vi
from ssvi_jax import data as data_lib
from ssvi_jax.core.errors import InputError
from ssvi_jax.methods import base, rank1
from ssvi_jax.networks import models, precision
from ssvi_jax.networks.rank1_factors import INITS, POSTERIORS
from ssvi_jax.networks.rank1_priors import FAST_PRIORS
from ssvi_jax.ops import backend
from ssvi_jax.training import presets, recipes, registry, run_config
from ssvi_jax.training.presets import defaults
from ssvi_jax.training.run_config import Config
from ssvi_jax.vi import criteria, densities, predictive, priors, schedules
from ssvi_jax.vi.densities import read_densities
from ssvi_jax.vi.subspace import GROWTH_INITS

FIELDS = {field.name: field for field in dataclasses.fields(Config)}


def choices(name):
    kind = FIELDS[name].type
    assert get_origin(kind) is Literal
    return set(get_args(kind))


@pytest.mark.parametrize(
    ("field", "registry"),
    [
        ("model", models.MODELS),
        ("dataset", data_lib.NAMES),
        ("preset", ["auto", *presets.PRESETS, *recipes.RECIPES]),
        ("removal", criteria.REMOVAL),
        ("addition", criteria.ADDITION),
        ("growth_init", GROWTH_INITS),
        ("prior", priors.PRIORS),
        ("estimator", vi.ESTIMATORS),
        ("backend", backend.BACKENDS),
        ("replacement_schedule", schedules.REPLACEMENT),
        ("schedule", schedules.LEARNING_RATE),
        ("train_corruption", ("none", *corruptions.NAMES)),
        ("bound", rank1.BOUNDS),
        ("fast_posterior", set(POSTERIORS) - {"point"}),
        ("fast_prior", FAST_PRIORS),
        ("fast_init", INITS),
        ("average", predictive.AVERAGES),
        ("precision", precision.PRECISIONS),
        ("member_batch", ["split", "tile"]),
    ],
)
def test_every_choice_is_what_its_registry_has(field, registry):
    assert choices(field) == set(registry)


def test_no_choice_goes_unchecked():
    """Every Literal is compared with a registry above, or is the method (below)."""
    literals = {name for name in FIELDS if get_origin(FIELDS[name].type) is Literal}
    assert len(literals) == 19 + 1
    assert choices("method") == set(registry.METHODS)
    assert choices("method") > set(presets.SPARSE_FROM_START)


def test_the_help_names_every_density_rule():
    text = Path(run_config.__file__).read_text()
    line = text[text.index('    densities: str = "erk"') :].splitlines()[1]
    assert densities.RULES.keys() <= set(re.findall(r"\w+", line))


@pytest.mark.parametrize("preset", sorted(presets.PRESETS))
@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "digits"])
@pytest.mark.parametrize("method", presets.METHODS)
def test_every_preset_resolves(preset, dataset, method):
    got = defaults(preset, dataset, method)
    assert (got.preset, got.dataset, got.method) == (preset, dataset, method)
    dense = ("deterministic", "svd", "ivon", "rank1", "batch_ensemble")
    dense += ("ensemble", "mc_dropout")
    assert (got.sparsity == 0) == (method in dense)
    assert (got.prune_at > 0) == (method in base.PRUNING)
    changed = set(presets.PRESETS[preset])
    if dataset == "digits":
        changed |= set(presets.DIGITS[preset])
    changed |= {"preset", "dataset", "method"} | presets.METHODS[method].keys()
    for name in FIELDS:
        if name not in changed:
            assert getattr(got, name) == getattr(Config(), name)


def test_the_paper_preset_is_the_authors_recipe():
    paper = defaults("paper", "cifar10", "ssvi")
    recipe = {
        "model": "resnet18",
        "densities": "uniform",
        "momentum": 0.9,
        "nesterov": False,
        "schedule": "cosine",
        "batch_size": 128,
        "weight_decay": 5e-4,
        "sigma_learning_rate": 0.01,
        "mean_init": 0.01,
        "sigma_init": 6e-4,
        "inner_steps": 100,
        "replacement_rate": 0.3,
        "replacement_end": 0.75,
        "replacement_schedule": "cosine",
        "removal": "abs_snr",
        "epochs": 200,
    }
    assert {name: getattr(paper, name) for name in recipe} == recipe


def test_an_unknown_preset_lists_the_known_ones():
    with pytest.raises(InputError, match="got 'x', allowed: laptop, paper, rank1"):
        defaults("x", "digits", "ssvi")


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("sparsity", 1.0, r"\[0, 1\)"),
        ("sparsity", -0.1, r"\[0, 1\)"),
        ("sparsity", float("nan"), r"\[0, 1\)"),
        ("prune_at", 1.0, r"\[0, 1\)"),
        ("beta2", 1.0, r"\[0, 1\)"),
        ("warmup", 1.0, r"\[0, 1\)"),
        ("decay_factor", 0.0, "above 0"),
        ("decay_at", (0.5,), "fractions with steps, none with others"),
        ("hess_init", 0.0, "above 0"),
        ("clip_radius", -1.0, "0 or more"),
        ("devices", -1, "0 or more"),
        ("coordinator", "host", "HOST:PORT"),
        ("replacement_rate", 1.1, r"\[0, 1\]"),
        ("replacement_end", -1.0, r"\[0, 1\]"),
        ("kl_warmup", 2.0, r"\[0, 1\]"),
        ("momentum", 1.0, r"\[0, 1\)"),
        ("epochs", 0, "above 0"),
        ("batch_size", -1, "above 0"),
        ("learning_rate", float("inf"), "above 0"),
        ("prior_std", 0.0, "above 0"),
        ("width", float("nan"), "above 0"),
        ("samples", 0, "above 0"),
        ("kl_scale", -1.0, "0 or more"),
        ("weight_decay", float("nan"), "0 or more"),
        ("seed", -1, "0 or more"),
        ("seed", 2**32, r"0 to 2\^32 - 1"),
        ("train_severity", 0, "1 to 5"),
        ("train_severity", 6, "1 to 5"),
        ("train_corruption", "rain", "brightness, contrast, .*none, .*zoom_blur"),
        ("model", "vgg", "convnet, lstm, mlp, resnet18, resnet34, resnet50, wrn28"),
        ("prior", "horseshoe", "gaussian, laplace, log_uniform, scale_mixture"),
    ],
)
def test_values_out_of_range_are_named(field, value, allowed):
    flag = "--" + field.replace("_", "-")
    with pytest.raises(InputError, match=f"{flag}: got .*, allowed: .*{allowed}"):
        dataclasses.replace(Config(), **{field: value})


def test_severities_are_those_of_the_corruptions():
    for severity in corruptions.SEVERITIES:
        got = Config(train_corruption="fog", train_severity=severity)
        assert got.train_severity == severity
    with pytest.raises(InputError, match="got 6, allowed: 1 to 5"):
        Config(train_corruption="fog", train_severity=max(corruptions.SEVERITIES) + 1)


def test_a_severity_without_a_corruption_is_refused():
    words = "--train-severity: got 5 without a corruption; name one with --train-corr"
    with pytest.raises(InputError, match=words):
        Config(train_severity=5)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sparsity", 0.0),
        ("replacement_end", 1.0),
        ("kl_scale", 0.0),
        ("seed", 2**32 - 1),
    ],
)
def test_the_ends_of_ranges_are_allowed(field, value):
    assert getattr(dataclasses.replace(Config(), **{field: value}), field) == value


def test_every_number_has_a_range():
    """What `__post_init__` forgets would be refused by nobody."""
    for name, field in FIELDS.items():
        if field.type in (int, float):
            with pytest.raises(InputError, match=name.replace("_", "-")):
                dataclasses.replace(Config(), **{name: -1})


def test_a_configuration_is_json():
    got = Config(out=Path("a/b"), data_dir=Path("c"), schedule="steps", decay_at=(0.5,))
    values = json.loads(json.dumps(got.as_dict()))
    assert values.keys() == FIELDS.keys()
    assert (values["out"], values["data_dir"], values["sparsity"]) == ("a/b", "c", 0.95)
    assert values["decay_at"] == got.as_dict()["decay_at"] == [0.5]
    assert Config().as_dict()["out"] is None


def test_a_rate_in_steps_says_where():
    with pytest.raises(InputError, match=r"--decay-at: got \[\] with --schedule steps"):
        Config(schedule="steps")


def test_what_a_continuation_may_change_exists():
    assert set(FIELDS) > run_config.NOT_COMPARED
    assert not run_config.NOT_COMPARED & {"seed", "sparsity", "epochs", "batch_size"}
    assert not run_config.NOT_COMPARED & {"train_corruption", "train_severity"}


def test_densities_are_a_rule_or_a_file(tmp_path):
    assert read_densities("erk") == "erk"
    path = tmp_path / "d.json"
    path.write_text('{"a/kernel": 0.5, "b/kernel": 1}')
    assert read_densities(str(path)) == {"a/kernel": 0.5, "b/kernel": 1}


@pytest.mark.parametrize(
    "content",
    [
        *(None, b"{", b"[1]", b"3", b"\xff", b'{"a": "x"}', b'{"a": true}'),
        *(b'{"a": null}', b'{"a": NaN}', b'{"a": 1e999}', b"[" * 100_000),
    ],
)
def test_densities_that_are_none(tmp_path, content):
    path = tmp_path / "d.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"--densities: .*d\.json"):
        read_densities(str(path))
    path.unlink(missing_ok=True)
    path.mkdir()
    with pytest.raises(InputError, match="--densities: cannot read"):
        read_densities(str(path))


@pytest.mark.parametrize(("number", "which"), [(2, 0), (1, 1)])
def test_processes_without_a_coordinator_are_refused(number, which):
    said = f"got {number}, {which}, allowed without --coordinator: 1, 0"
    with pytest.raises(InputError, match=said):
        Config(num_processes=number, process_id=which)


@pytest.mark.parametrize("process_id", [-1, 2])
def test_a_process_that_is_not_one_of_them_is_refused(process_id):
    with pytest.raises(InputError, match=r"--process-id: got .*, allowed: 0 to 1"):
        Config(coordinator="host:1", num_processes=2, process_id=process_id)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("epochs", 1.5, "--epochs: got '1.5', allowed: a whole number"),
        ("epochs", True, "--epochs: got 'True', allowed: a whole number"),
        ("epochs", 10**30, "--epochs: got '1000.*, allowed: a whole number up to"),
        ("width", "1", "--width: got '1', allowed: a finite number"),
        ("width", 10**400, "--width: got '1000.*, allowed: a finite number"),
        ("kl_scale", None, "--kl-scale: got 'None', allowed: a finite number"),
        ("sparsity", [0.5], r"--sparsity: got '\[0.5\]', allowed: a finite number"),
        ("nesterov", 1, "--nesterov: got '1', allowed: true or false"),
        ("densities", 3, "--densities: got '3', allowed: text"),
        ("coordinator", True, "--coordinator: got 'True', allowed: text"),
        ("decay_at", 3, "--decay-at: got '3', allowed: a list of finite numbers"),
        ("decay_at", ["x"], r"--decay-at: got .*, allowed: a list of finite numbers"),
    ],
)
def test_values_of_another_kind_as_a_file_may_hold_them(field, value, words):
    with pytest.raises(InputError, match=words):
        Config(**{field: value})
