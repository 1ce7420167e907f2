"""The configuration: recipes, presets, files, assignments and their errors."""

from __future__ import annotations

import pytest

from d2net.config import (
    ConfigError,
    field_names,
    from_dict,
    load_config,
    make_config,
    parse_assignments,
)
from d2net.presets import PRESETS, RECIPES
from d2net.ranges import parse_values


@pytest.mark.parametrize("suffix", ["yaml", "toml"])
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("preset", [None, *PRESETS])
def test_every_combination_survives_a_file(tmp_path, preset, recipe, suffix):
    odd = {"loss.dv_relative_floor": None, "train.subsets": ["entraînement"], "localize.thresholds": "0:1:0.1"}
    config = make_config(preset, recipe, odd)
    config.save(tmp_path / f"config.{suffix}")
    assert load_config(tmp_path / f"config.{suffix}") == config
    assert from_dict(config.model_dump()) == config


def test_recipes_and_presets_hold_what_the_tables_say():
    release, paper = make_config("thumos14"), make_config("thumos14", "paper")
    assert release.localize.threshold_values() == [i / 40 for i in range(1, 20)]
    assert paper.localize.threshold_values() == [i / 40 for i in range(1, 21)]
    assert (release.train.batch_size, paper.train.batch_size) == (20, 10)
    assert (release.loss.ds_weight, paper.loss.ds_weight) == (0.1, 0.2)
    assert (release.model.classifier_kernel_size, paper.model.classifier_kernel_size) == (1, 3)
    net = make_config("activitynet12", "paper")
    assert (net.model.kernel_size, net.model.dilation, net.loss.ds_weight) == (5, 2, 1e-3)
    net = make_config("activitynet12")
    assert (net.loss.pool_divisor, net.loss.background_threshold, net.loss.ds_background_threshold) == (4, 0.8, 0.3)


def test_later_sources_win(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("recipe: paper\nloss:\n  gamma: 0.5\n  beta: 3\n")
    config = make_config("thumos14", overrides={"beta": 1.0}, file=file)
    assert (config.recipe, config.loss.gamma, config.loss.beta, config.loss.pairs) == ("paper", 0.5, 1.0, "all")


def test_every_field_can_be_set_from_the_command_line():
    default = make_config()
    for name in field_names():
        section, _, field = name.rpartition(".")
        value = getattr(getattr(default, section) if section else default, field)
        if name not in ("recipe", "preset"):
            text = "null" if value is None else str(value)
            assert make_config(overrides=parse_assignments([f"{name}={text}"])) == default


def test_assignments_are_typed():
    texts = ["learning_rate=1e-3", "train.subsets=[a, b]", "min_score=null", "residual=false", "thresholds=0:1:0.5"]
    got = parse_assignments(texts)
    assert got == {
        "train.learning_rate": 1e-3,
        "train.subsets": ["a", "b"],
        "localize.min_score": None,
        "model.residual": False,
        "localize.thresholds": "0:1:0.5",
    }


def test_one_value_may_stand_for_a_list():
    given = ["train.subsets=train, val", "localize.subsets=test", "localize.thresholds=0.3", "evaluate.iou=0.5"]
    config = make_config(overrides=parse_assignments(given))
    assert (config.train.subsets, config.localize.subsets) == (["train", "val"], ["test"])
    assert (config.localize.threshold_values(), config.evaluate.iou) == ([0.3], 0.5)


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("gama=1", "unknown field 'gama'; did you mean 'loss.gamma'"),
        ("train.itertions=3", "did you mean 'train.iterations'"),
        ("subsets=[a]", "several sections; say train.subsets or localize.subsets"),
        ("gamma=-1", "loss.gamma.*got -1"),
        ("dropout=much", "model.dropout.*got 'much'"),
        ("kernel_size=4", "kernel_size must be odd.*got 4"),
        ("thresholds=0.5:0.1:0.1", "thresholds"),
        ("thresholds=a:b", "thresholds.*'a:b'"),
        ("gamma", "field=value, got 'gamma'"),
        ("gamma=.nan", "loss.gamma"),
        ("gradient_clip=0", "greater than 0, got 0"),
        ("loss=3", "'loss' is a section; name one of its fields"),
        ("los={gamma: 1}", "unknown field 'los'"),
        ("preset=[a]", "unknown preset"),
        ("evaluate.iou=abc", "evaluate.iou: iou must be like.*'abc'"),
        ("evaluate.iou=1.5", r"evaluate.iou: .*in \(0, 1\], got 1.5"),
        ("localize.thresholds={}", "^localize.thresholds: "),
    ],
)
def test_errors_name_the_field_and_the_value(assignment, says):
    with pytest.raises(ConfigError, match=says):
        make_config(overrides=parse_assignments([assignment]))


def test_unusable_files(tmp_path):
    file = tmp_path / "c.yaml"
    for text, says in (("[1, 2]", "must hold sections"), ("a: [", "not valid YAML"), ("loss: 3", "section 'loss'")):
        file.write_text(text)
        with pytest.raises(ConfigError, match=says):
            load_config(file)
    toml = tmp_path / "c.toml"
    for text, says in (
        ("a = [", "not valid TOML"),
        ("[los]\ngamma = 1", "unknown section 'los'; did you mean 'loss'"),
        ("[loss]\ngama = 1", "did you mean 'loss.gamma'"),
    ):
        toml.write_text(text)
        with pytest.raises(ConfigError, match=says):
            load_config(toml)
    with pytest.raises(ConfigError, match=r"no file .*absent\.yaml"):
        load_config(tmp_path / "absent.yaml")
    for kwargs in ({"preset": "thumos"}, {"recipe": "papers"}):
        with pytest.raises(ConfigError, match=r"unknown (preset|recipe)"):
            make_config(**kwargs)


def test_ranges_do_not_drift():
    assert parse_values("0.1:0.7:0.1") == [i / 10 for i in range(1, 8)]
    assert parse_values("0.5:0.95:0.05") == [i / 20 for i in range(10, 20)]
    assert parse_values("0.3,0.5") == [0.3, 0.5]


def test_none_is_null_where_a_field_may_be_empty(tmp_path):
    flat = parse_assignments(["keep_ratio=None", "gradient_clip=null", "holdout_by=None"])
    config = make_config(overrides=flat)
    assert config.localize.keep_ratio is config.train.gradient_clip is config.train.holdout_by is None
    (tmp_path / "c.yaml").write_text("localize: {keep_ratio: None}")
    assert load_config(tmp_path / "c.yaml").localize.keep_ratio is None
    with pytest.raises(ConfigError, match=r"localize.margin: .*got 'None'"):
        make_config(overrides={"localize.margin": "None"})


def test_a_suggestion_is_near():
    near = {"foo": "unknown field 'foo'$", "gama": "did you mean 'loss.gamma'", "iteration": "'train.iterations'"}
    for name, says in near.items():
        with pytest.raises(ConfigError, match=says):
            parse_assignments([f"{name}=1"])


@pytest.mark.parametrize(
    "assignment",
    [
        "thresholds=0:1:1e-9", "thresholds=0:1:0", "thresholds=0:inf:0.1", "thresholds=0:1e308:1e-308", "iou=0:1:1e-9",
        "kernel_size=1000001", "workers=100000", "cache_gigabytes=1e308", "upsample=1099511627776", "margin=1e300",
        "iterations=" + "9" * 400, "seed=" + "9" * 400, "pool_divisor=" + "9" * 30, "margin=.inf",
        "train.batch_size=" + "9" * 12,
    ],
)  # fmt: skip
def test_values_have_bounds(assignment):
    with pytest.raises(ConfigError) as error:
        make_config(overrides=parse_assignments([assignment]))
    assert len(str(error.value)) < 400


def test_ranges_never_pass_their_end():
    assert parse_values("0:0.75:0.2") == [0.0, 0.2, 0.4, 0.6]
    assert parse_values("0.1:0.3:0.1,0.9") == [0.1, 0.2, 0.3, 0.9]


def test_a_field_given_twice_in_two_spellings_is_refused(tmp_path):
    (tmp_path / "c.yaml").write_text("seed: 3\ntrain: {seed: 4}\n")
    with pytest.raises(ConfigError, match=r"train.seed.*twice"):
        load_config(tmp_path / "c.yaml")


FLAGS = {"residual", "inclusive", "normalize_embeddings", "ds_skip_one_sided", "dv_normalize_rows", "reweight",
         "foreground_rescale", "resized", "resident", "graph"}  # fmt: skip


@pytest.mark.parametrize("flag", [True, False, [True], [0.1, False]])
def test_true_and_false_are_no_numbers(flag):
    for field in field_names():
        name = field.rpartition(".")[2]
        if name in FLAGS and isinstance(flag, bool):
            make_config(overrides={field: flag})
            continue
        with pytest.raises(ConfigError, match=rf"{name}\b") as error:
            make_config(overrides={field: flag})
        assert "\n" not in str(error.value)
        assert "True" in str(error.value) or "False" in str(error.value)


def test_a_preset_that_is_given_twice(tmp_path):
    for kind, one, other in (("preset", "hapt", "thumos14"), ("recipe", "paper", "release"), ("preset", "hapt", 3)):
        with pytest.raises(ConfigError, match=f"{kind} is given twice, as '{one}' and as"):
            make_config(**{kind: one}, overrides={kind: other})
        assert getattr(make_config(**{kind: one}, overrides={kind: one}), kind) == one
    with pytest.raises(ConfigError, match=r"unknown recipe \[\]"):
        make_config(overrides={"recipe": []})
