import dataclasses
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest

from ssvi_jax import corruptions, vi
from ssvi_jax import data as data_lib
from ssvi_jax.core.errors import InputError
from ssvi_jax.core.structure import POSTERIORS
from ssvi_jax.methods import METHODS, SSVI, groups
from ssvi_jax.methods.algorithms.swapping import read_densities
from ssvi_jax.networks import models, precision
from ssvi_jax.networks.rank1_priors import FAST_PRIORS
from ssvi_jax.ops import backend
from ssvi_jax.training import presets, recipes, run_config
from ssvi_jax.training.presets import defaults
from ssvi_jax.training.run_config import Config, Data, Run, Training, names_of
from ssvi_jax.vi import criteria, densities, predictive, priors, schedules
from ssvi_jax.vi.subspace import GROWTH_INITS


def plain(kind: Any) -> Any:
    """A type without what it is annotated with."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


FIELDS = [
    (name, field.name, plain(field.type))
    for name in METHODS
    for group in (METHODS[name], *([Training, Data, Run] if name == "ssvi" else []))
    for field in dataclasses.fields(group)
]
"""(a method that has it, name, type) of every setting that there is."""

CHOICES = {
    (name, choices)
    for _, name, kind in FIELDS
    if get_origin(kind) is Literal
    for choices in [frozenset(get_args(kind))]
}


def config(method="ssvi", **values):
    """A configuration from values that a file or a command line gives."""
    return Config.of({"method": method, **values})


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
        ("bound", ["average", "mixture"]),
        ("fast_posterior", set(POSTERIORS) - {"point"}),
        ("fast_prior", FAST_PRIORS),
        ("average", predictive.AVERAGES),
        ("precision", precision.PRECISIONS),
        ("member_batch", ["split", "tile"]),
        ("shifts", ["zeros", "reflect"]),
        ("layer_prior", ["weight_decay", "empirical"]),
    ],
)
def test_every_choice_is_what_its_registry_has(field, registry):
    assert [set(choices) for name, choices in CHOICES if name == field] == [
        set(registry)
    ]


def test_no_choice_goes_unchecked():
    """Every Literal is compared with a registry above."""
    assert len(CHOICES) == 20


def test_the_help_names_every_density_rule():
    text = Path(groups.__file__).read_text()
    line = text[text.index('    densities: str = "erk"') :].splitlines()[1]
    assert densities.RULES.keys() <= set(re.findall(r"\w+", line))


DENSE = ("deterministic", "svd", "ivon", "ensemble", "mc_dropout")
"""Methods that have no sparsity."""


@pytest.mark.parametrize("preset", sorted(presets.PRESETS))
@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "digits"])
@pytest.mark.parametrize("method", METHODS)
def test_every_preset_resolves(preset, dataset, method):
    got = defaults(preset, dataset, method)
    values = got.values()
    assert (values["preset"], values["dataset"], values["method"]) == (
        preset,
        dataset,
        method,
    )
    assert ("sparsity" not in values) == (method in DENSE)
    dense = (*DENSE, "rank1", "batch_ensemble")
    assert (values.get("sparsity", 0) == 0) == (method in dense)
    assert ("prune_at" in values) == (method in ("magnitude", "svd"))
    changed = set(presets.PRESETS[preset])
    if dataset == "digits":
        changed |= set(presets.DIGITS[preset])
    changed |= {"preset", "dataset", "method"} | METHODS[method].defining().keys()
    plain = Config.of({"method": method}).values()
    assert values.keys() == plain.keys() == names_of(METHODS[method])
    for name in plain.keys() - changed:
        assert values[name] == plain[name]


@pytest.mark.parametrize("preset", sorted(presets.PRESETS))
@pytest.mark.parametrize("method", METHODS)
def test_no_preset_changes_what_defines_a_method(preset, method):
    values = defaults(preset, "cifar10", method).values()
    defining = METHODS[method].defining()
    assert {name: values[name] for name in defining} == defining


def test_the_paper_preset_is_the_authors_recipe():
    paper = defaults("paper", "cifar10", "ssvi").values()
    recipe = {
        "model": "resnet18",
        "densities": "uniform",
        "momentum": 0.9,
        "nesterov": False,
        "schedule": "cosine",
        "batch_size": 128,
        "weight_decay": 5e-4,
        "learning_rate": 0.01,
        "sigma_learning_rate": None,  # as that of the means
        "mean_init": 0.01,
        "sigma_init": 6e-4,
        "inner_steps": 100,
        "replacement_rate": 0.3,
        "replacement_end": 0.75,
        "replacement_schedule": "cosine",
        "removal": "abs_snr",
        "epochs": 200,
    }
    assert {name: paper[name] for name in recipe} == recipe


def test_an_unknown_preset_lists_the_known_ones():
    with pytest.raises(InputError, match="got 'x', allowed: laptop, paper, rank1"):
        defaults("x", "digits", "ssvi")


@pytest.mark.parametrize(
    ("method", "field", "value", "allowed"),
    [
        ("ssvi", "sparsity", 1.0, r"\[0, 1\)"),
        ("ssvi", "sparsity", -0.1, r"\[0, 1\)"),
        ("ssvi", "sparsity", float("nan"), r"\[0, 1\)"),
        ("magnitude", "prune_at", 1.0, r"\[0, 1\)"),
        ("mc_dropout", "dropout_rate", 1.0, r"\[0, 1\)"),
        ("ivon", "beta2", 1.0, r"\[0, 1\)"),
        ("ssvi", "warmup", 1.0, r"\[0, 1\)"),
        ("ssvi", "decay_factor", 0.0, "above 0"),
        ("ssvi", "decay_at", (0.5,), "fractions with steps, none with others"),
        ("ssvi", "accumulate", 3, "a number that divides the batch size, 128"),
        ("ssvi", "minutes", -1.0, "0 or more"),
        ("ivon", "hess_init", 0.0, "above 0"),
        ("ivon", "clip_radius", -1.0, "0 or more"),
        ("ssvi", "devices", -1, "0 or more"),
        ("ssvi", "coordinator", "host", "HOST:PORT"),
        ("ssvi", "replacement_rate", 1.1, r"\[0, 1\]"),
        ("ssvi", "replacement_end", -1.0, r"\[0, 1\]"),
        ("rank1", "fast_sign_probability", 1.1, r"\[0, 1\]"),
        ("ssvi", "kl_warmup", 2.0, r"\[0, 1\]"),
        ("ssvi", "momentum", 1.0, r"\[0, 1\)"),
        ("ssvi", "epochs", 0, "above 0"),
        ("ssvi", "batch_size", -1, "above 0"),
        ("ssvi", "learning_rate", float("inf"), "above 0"),
        ("ssvi", "sigma_learning_rate", 0.0, "above 0"),
        ("ssvi", "prior_std", 0.0, "above 0"),
        ("ssvi", "width", float("nan"), "above 0"),
        ("ssvi", "samples", 0, "above 0"),
        ("ssvi", "kl_scale", -1.0, "0 or more"),
        ("ssvi", "weight_decay", float("nan"), "0 or more"),
        ("ssvi", "seed", -1, "0 or more"),
        ("ssvi", "seed", 2**32, r"0 to 2\^32 - 1"),
        ("ssvi", "train_severity", 0, "1 to 5"),
        ("ssvi", "train_severity", 6, "1 to 5"),
        ("ssvi", "train_corruption", "rain", "brightness, contrast, .*none, .*zoom"),
        ("ssvi", "preset", "fast", "auto, laptop, paper, rank1-"),
        ("ssvi", "model", "vgg", "convnet, lstm, mlp, resnet18, resnet34, resnet50"),
        ("ssvi", "prior", "horseshoe", "gaussian, laplace, log_uniform, scale"),
    ],
)
def test_values_out_of_range_are_named(method, field, value, allowed):
    with pytest.raises(InputError, match=f"^{field}: got .*, allowed: .*{allowed}"):
        config(method, **{field: value})


def test_severities_are_those_of_the_corruptions():
    for severity in corruptions.SEVERITIES:
        got = config(train_corruption="fog", train_severity=severity)
        assert got.data.train_severity == severity
    with pytest.raises(InputError, match="got 6, allowed: 1 to 5"):
        config(train_corruption="fog", train_severity=max(corruptions.SEVERITIES) + 1)


def test_a_severity_without_a_corruption_is_refused():
    words = r"train_severity: got 5 without a corruption; name one \(train_corruption\)"
    with pytest.raises(InputError, match=words):
        config(train_severity=5)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sparsity", 0.0),
        ("replacement_end", 1.0),
        ("kl_scale", 0.0),
        ("minutes", 0.0),
        ("sigma_learning_rate", None),
        ("seed", 2**32 - 1),
    ],
)
def test_the_ends_of_ranges_are_allowed(field, value):
    assert config(**{field: value}).values()[field] == value


def test_every_number_has_a_range():
    """One without a check would be refused by nobody."""
    numbers = (int, float, float | None, int | None)
    checked = 0
    for method, name, kind in FIELDS:
        if kind in numbers:
            with pytest.raises(InputError, match=rf"\b{name}\b.*: got .*-1"):
                config(method, **{name: -1})
            checked += 1
    assert checked > 100


# Which settings there are -------------------------------------------------------------


def test_names_are_unique():
    for method in METHODS.values():
        names = [n for g in (method, Training, Data, Run) for n in g.names()]
        assert len(names) == len(set(names))


def test_a_method_of_another_name_is_refused():
    with pytest.raises(InputError, match=r"method: got 'x', allowed: batch_ensemble"):
        config("x")
    with pytest.raises(InputError, match="got rigl with the settings of ssvi"):
        Config(method=SSVI(), run=Run(method="rigl"))


def test_settings_of_other_methods_are_refused():
    words = "^members: no setting of the method ssvi, allowed: accumulate, addition"
    with pytest.raises(InputError, match=words):
        config(members=3)
    with pytest.raises(InputError, match=r"^members: no setting of the method ssvi"):
        config().with_values(members=3)
    with pytest.raises(InputError, match=r"^removal: no setting of the method rigl"):
        config(removal="snr").with_values(method="rigl")


def test_values_are_changed_in_whatever_group_they_are():
    changes = {"sparsity": 0.5, "epochs": 3, "dataset": "digits", "seed": 7}
    got, before = config().with_values(**changes), config().values()
    assert got.values() == before | changes
    assert (got.method.sparsity, got.training.epochs) == (0.5, 3)  # type: ignore[attr-defined]
    assert (got.data.dataset, got.run.seed) == ("digits", 7)


@pytest.mark.parametrize("method", METHODS)
def test_a_configuration_is_read_back_from_what_is_written(method):
    values = defaults("paper", "cifar10", method).as_dict()
    assert Config.of(json.loads(json.dumps(values))).as_dict() == values


def test_a_configuration_is_json():
    paths: dict[str, Any] = {"out": Path("a/b"), "data_dir": Path("c")}
    got = config(**paths, schedule="steps", decay_at=(0.5,))
    values = json.loads(json.dumps(got.as_dict()))
    assert values.keys() == names_of(SSVI)
    assert (values["out"], values["data_dir"], values["sparsity"]) == ("a/b", "c", 0.95)
    assert values["decay_at"] == got.as_dict()["decay_at"] == [0.5]
    assert Config().as_dict()["out"] is None


def test_a_rate_in_steps_says_where():
    with pytest.raises(InputError, match=r"decay_at: got \[\] with schedule steps"):
        config(schedule="steps")


def test_what_a_continuation_may_change_exists():
    for method in METHODS.values():
        assert names_of(method) > run_config.NOT_COMPARED
        assert not run_config.NOT_COMPARED & {*method.names()}
    compared = {"seed", "epochs", "minutes", "batch_size", "method"}
    assert not run_config.NOT_COMPARED & compared
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
    with pytest.raises(InputError, match=r"^densities: .*d\.json"):
        read_densities(str(path))
    path.unlink(missing_ok=True)
    path.mkdir()
    with pytest.raises(InputError, match=r"^densities: cannot read"):
        read_densities(str(path))


@pytest.mark.parametrize(("number", "which"), [(2, 0), (1, 1)])
def test_processes_without_a_coordinator_are_refused(number, which):
    said = f"got {number}, {which}, allowed without a coordinator: 1, 0"
    with pytest.raises(InputError, match=said):
        config(num_processes=number, process_id=which)


@pytest.mark.parametrize("process_id", [-1, 2])
def test_a_process_that_is_not_one_of_them_is_refused(process_id):
    with pytest.raises(InputError, match=r"^process_id: got .*, allowed: 0 to 1"):
        config(coordinator="host:1", num_processes=2, process_id=process_id)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("batch_size", 1.5, "^batch_size: got '1.5', allowed: a whole number"),
        ("batch_size", True, "^batch_size: got 'True', allowed: a whole number"),
        (
            "batch_size",
            10**30,
            "^batch_size: got '1000.*, allowed: a whole number up to",
        ),
        ("width", "1", "^width: got '1', allowed: a finite number"),
        ("width", 10**400, "^width: got '1000.*, allowed: a finite number"),
        ("kl_scale", None, "^kl_scale: got 'None', allowed: a finite number"),
        ("sparsity", [0.5], r"^sparsity: got '\[0.5\]', allowed: a finite number"),
        ("nesterov", 1, "^nesterov: got '1', allowed: true or false"),
        ("densities", 3, "^densities: got '3', allowed: text"),
        ("coordinator", True, "^coordinator: got 'True', allowed: text"),
        ("decay_at", 3, "^decay_at: got '3', allowed: a list of finite numbers"),
        ("decay_at", ["x"], r"^decay_at: got .*, allowed: a list of finite numbers"),
    ],
)
def test_values_of_another_kind_as_a_file_may_hold_them(field, value, words):
    with pytest.raises(InputError, match=words):
        config(**{field: value})
