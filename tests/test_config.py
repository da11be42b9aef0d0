"""Configuration: presets hold the paper's numbers, and bad input is one line."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from netwright.children.language import solve_width
from netwright.config import (
    TASKS,
    config_from_dict,
    load_config,
    presets,
    to_toml,
    with_settings,
)
from netwright.errors import ConfigError
from netwright.space import Choice
from netwright.tasks.closed import ClosedConfig
from netwright.tasks.images import ImageConfig
from netwright.tasks.language import LanguageConfig

IMAGES = ("cifar10-small", "cifar10-v1", "cifar10-v2", "cifar10-v3", "digits")
PTB = ("ptb-chars", "ptb-small", "ptb-words", "ptb-words-max-sin", "zaremba-medium")
CLOSED = ("nats", "synthetic-cell", "synthetic-conv")
NAMES = tuple(sorted(("cell-demo", "chars-small", *IMAGES, *PTB, *CLOSED)))
PAPER = ("cifar10-v1", "cifar10-v2", "cifar10-v3")


def images(source: str | Path, settings_: tuple[str, ...] = ()) -> ImageConfig:
    """Return a configuration of the task images."""
    config = load_config(source, settings_)
    assert isinstance(config, ImageConfig)
    return config


def language(source: str | Path, settings_: tuple[str, ...] = ()) -> LanguageConfig:
    """Return a configuration of the task language."""
    config = load_config(source, settings_)
    assert isinstance(config, LanguageConfig)
    return config


def refused(data: Any, where: str = "here.toml") -> str:
    """Return the one line with which `data` is refused."""
    with pytest.raises(ConfigError) as caught:
        config_from_dict(data, where)
    text = str(caught.value)
    assert text.splitlines() == [text]
    return text


# --- presets ------------------------------------------------------------------------------------


def test_presets_are_these() -> None:
    assert tuple(sorted(presets())) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_loads_and_survives_plain_data(name: str) -> None:
    config = load_config(name)
    assert config.name == name
    assert config.about
    assert config_from_dict(config.to_dict(), "its own data") == config


@pytest.mark.parametrize("name", PAPER)
def test_paper_presets_train_and_learn_as_the_paper_does(name: str) -> None:
    config = images(name)
    assert config.space.heights == (1, 3, 5, 7)
    assert config.space.widths == (1, 3, 5, 7)
    assert config.space.skips is True
    assert config.space.layer_types == ("conv",)
    assert config.space.learning_rates == ()
    assert config.child.widen == 0
    assert config.child.batch_norm is True
    controller = config.controller
    assert controller.name == "policy_gradient"
    assert controller.learning_rate == 0.0006
    assert (controller.batch, controller.accumulate, config.study.replicas) == (8, 1, 100)
    assert (controller.units, controller.layers, controller.scale) == (35, 2, 0.08)
    assert controller.entropy == 0.0
    recipe = config.training
    assert recipe.epochs == 50
    assert recipe.batch == 64
    assert recipe.learning_rate == 0.1
    assert recipe.momentum == 0.9
    assert recipe.weight_decay == 1e-4
    assert recipe.drops == (0.5, 0.75)
    assert recipe.drop_factor == 0.1
    assert recipe.reward_epochs == 5
    assert recipe.reward_power == 3
    assert config.data.source == "cifar10"
    assert config.data.validation == 5000
    assert config.data.train_limit == 0
    assert config.data.size == 0
    assert config.data.whiten == "channel"
    assert config.data.upsample > 32
    assert config.data.flip is True
    assert config.study.trials == 12800


@pytest.mark.parametrize(("name", "strides"), [("cifar10-v1", (1,)), ("cifar10-v2", (1, 2, 3))])
def test_v1_and_v2_grow_by_two_layers_every_1600_children(
    name: str, strides: tuple[int, ...]
) -> None:
    config = images(name)
    assert config.space.filters == (24, 36, 48, 64)
    assert config.space.strides == strides
    assert config.space.block == 1
    assert config.space.pools == ()
    depth = config.study.depth
    assert depth is not None
    assert (depth.start, depth.step, depth.every) == (6, 2, 1600)
    seen = [depth.given(n)["depth"] for n in (0, 1599, 1600, 3200, 12799)]
    assert seen == [6, 6, 8, 10, 20]
    assert config.space.depths == (6, 8, 10, 12, 14, 16, 18, 20)


def test_v3_is_13_blocks_of_3_with_two_poolings() -> None:
    config = images("cifar10-v3")
    assert config.space.filters == (6, 12, 24, 36)
    assert config.space.strides == (1,)
    assert config.space.depths == (13,)
    assert config.space.block == 3
    assert config.space.pools == (13, 24)
    assert config.study.depth is None


@pytest.mark.parametrize("name", ["ptb-words", "ptb-words-max-sin"])
def test_the_paper_searches_cells_of_base_8_for_20_million_parameters(name: str) -> None:
    config = language(name)
    extra = name.endswith("max-sin")
    assert config.space.base == 8
    assert config.space.combinations == ("add", "elem_mult") + ("max",) * extra
    assert config.space.activations == ("identity", "tanh", "sigmoid", "relu") + ("sin",) * extra
    controller = config.controller
    assert controller.name == "policy_gradient"
    assert (controller.learning_rate, controller.batch) == (0.0005, 1)
    assert (controller.accumulate, config.study.replicas) == (10, 400)
    assert (controller.units, controller.layers, controller.scale) == (35, 2, 0.08)
    assert controller.entropy == 0.0
    child = config.child
    assert (child.layers, child.budget, child.width, child.shared) == (2, 20_000_000, 0, False)
    assert (child.embedding, child.bias, child.cutoffs) == (0, False, ())
    assert (config.data.source, config.data.unit) == ("ptb", "words")
    assert (config.data.train_limit, config.data.vocabulary) == (0, 0)
    recipe = config.training
    assert (recipe.epochs, recipe.reward_scale) == (35, 80.0)
    assert recipe.variational is True
    assert min(recipe.embedding_dropout, recipe.recurrent_dropout) > 0
    assert config.study.trials == 15_000
    assert set(config.grid()[0]) == {"learning_rate", "scale", "dropout", "decay_after"}
    # 2(2B - 1) + 4 tokens; the paper's 6e16 cells: 8^15 x 8 x 15^2
    decisions = config.make_space().decisions
    assert len(decisions) == 34
    sizes = math.prod(len(d.options) for d in decisions if isinstance(d, Choice))
    assert sizes == (15 if extra else 8) ** 16 * 15**2


def test_max_and_sin_are_all_that_the_papers_control_changes() -> None:
    base, control = (language(n).to_dict() for n in ("ptb-words", "ptb-words-max-sin"))
    assert {key for key in base if base[key] != control[key]} == {"name", "about", "space"}


@pytest.mark.parametrize("name", ["ptb-words", "zaremba-medium"])
def test_zarembas_medium_recipe(name: str) -> None:
    recipe = language(name).training
    assert (recipe.batch, recipe.steps, recipe.clip, recipe.scale) == (20, 35, 5.0, 0.05)
    assert (recipe.optimiser, recipe.learning_rate, recipe.weight_decay) == ("sgd", 1.0, 0.0)
    assert (recipe.schedule, recipe.decay_after, recipe.decay_factor) == ("decay", 6, 1 / 1.2)
    assert {recipe.input_dropout, recipe.hidden_dropout, recipe.output_dropout} == {0.5}
    if name == "zaremba-medium":
        assert recipe.epochs == 39
        assert recipe.variational is False
        assert recipe.embedding_dropout == recipe.recurrent_dropout == 0.0
        child = language(name).child
        assert (child.layers, child.budget, child.bias) == (2, 20_000_000, True)
        assert solve_width("lstm", 10_000, child) in range(645, 660)  # his 650


def test_the_papers_characters() -> None:
    """5,017,482 stripped characters in 32 columns of windows of 100: 1,568; 51 x 1,568 = 79,968."""
    config = language("ptb-chars")
    assert (config.data.unit, config.data.strip) == ("characters", True)
    child, recipe = config.child, config.training
    assert (child.layers, child.budget, child.embedding) == (2, 6_570_000, 128)
    assert (recipe.batch, recipe.steps) == (32, 100)
    assert (recipe.optimiser, recipe.learning_rate, recipe.weight_decay) == ("adam", 0.001, 1e-4)
    assert (recipe.input_dropout, recipe.hidden_dropout) == (0.2, 0.5)
    assert abs(recipe.epochs * 1568 / 80_000 - 1) < 0.01


@pytest.mark.parametrize("name", ["cell-demo", "chars-small", "ptb-small"])
def test_small_searches_use_one_thread(name: str) -> None:
    config = language(name)
    assert config.execution.threads == 1
    assert config.training.epochs == 1
    assert config.child.budget <= 1_000_000
    assert config.study.trials % config.controller.batch == 0


# --- tasks --------------------------------------------------------------------------------------


def test_data_that_name_no_task_are_of_images() -> None:
    config = config_from_dict({}, "here.toml")
    assert type(config) is TASKS["images"] is ImageConfig
    assert config == config_from_dict({"task": "images"}, "here.toml")


@pytest.mark.parametrize("task", ["", "image", "Images", 3, None, ["images"], {}])
def test_an_unknown_task_is_refused_with_those_there_are(task: Any) -> None:
    text = refused({"task": task, "trainig": {}})
    assert f"task must be one of {', '.join(TASKS)}; got {task!r} in here.toml" in text


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_a_whole_configuration_in_order(task: str) -> None:
    config = config_from_dict({"task": task}, "here.toml")
    names = list(config.to_dict())
    assert names[:3] == ["name", "about", "task"]
    assert names[-2:] == ["execution", "compare"]
    assert set(names) == {field.name for field in dataclasses.fields(config)}
    if isinstance(config, ClosedConfig):
        return
    assert names[3] == "space"
    assert config.make_space().kind == config.kind
    assert json.loads(json.dumps(config.grid())) == config.grid()


def test_what_a_study_is_leaves_out_length_place_and_what_comes_after() -> None:
    base = load_config("digits")
    for setting in ("study.trials=5", "execution.threads=2", "tune.top=1", "final.epochs=3"):
        assert load_config("digits", [setting]).identity() == base.identity()
    assert list(base.identity()) == ["space", "child", "controller", "data", "training", "study"]
    assert load_config("digits", ["study.seed=5"]).identity() != base.identity()


# --- what is refused ----------------------------------------------------------------------------

UNKNOWN = [
    ({"trainig": {}}, "'trainig'", "did you mean training?"),
    ({"training": {"epoch": 3}}, "'training.epoch'", "did you mean epochs?"),
    ({"study": {"depth": {"strat": 6}}}, "'study.depth.strat'", "did you mean start?"),
    ({"data": {"zzzzzz": 1}}, "'data.zzzzzz'", "keys here are source, size"),
    ({3: 1}, "got 3 in", "keys here are name"),
    ({"a\nb\u2028c": 1}, "a\\nb", "keys here are"),
]


@pytest.mark.parametrize(("data", "named", "hint"), UNKNOWN)
def test_an_unknown_key_is_named_with_a_hint(data: Any, named: str, hint: str) -> None:
    text = refused(data)
    assert "a key must be known" in text
    assert named in text
    assert hint in text
    assert "here.toml" in text


TYPES = [
    ("training.epochs", "5", "a whole number"),
    ("training.epochs", 5.0, "a whole number"),
    ("training.epochs", True, "a whole number"),
    ("training.epochs", None, "a whole number"),
    ("training.epochs", 10**400, "within 64 bits"),
    pytest.param("training.epochs", 10**5000, "too large to print", id="a huge number"),
    ("training.learning_rate", "fast", "a number"),
    ("training.learning_rate", math.nan, "within 64 bits"),
    ("training.learning_rate", math.inf, "within 64 bits"),
    ("training.learning_rate", 10**400, "within 64 bits"),
    ("data.flip", 1, "true or false"),
    ("data.source", ["digits"], "a text"),
    ("name", 7, "a text"),
    ("space.filters", 8, "a list"),
    ("space.filters", "8", "a list"),
    ("space.filters", [8, "x"], "space.filters[1] must be a whole number"),
    ("tune.drops", [0.5], "tune.drops[0] must be a list"),
    ("training", 3, "training must be a section"),
    ("study.depth", 3, "study.depth must be a section"),
    ("study.depth", None, "study.depth must be a section"),
]


@pytest.mark.parametrize(("key", "value", "rule"), TYPES)
def test_a_value_of_another_type_is_refused(key: str, value: Any, rule: str) -> None:
    text = refused(nested(key, value))
    assert key in text
    assert rule in text
    assert "here.toml" in text


@pytest.mark.parametrize(
    ("task", "key", "value"),
    [
        ("images", "space.heights", 3),
        ("images", "space.heights", [2]),
        ("images", "space.layer_types", "conv"),
        ("images", "space.layer_types", ["a"]),
        ("images", "space.layer_types", ["conv", 1]),
        ("images", "tune.drops", [0.5]),
        ("images", "compare.at", [2, 1]),
        ("images", "data.image_column", 1),
        ("images", "data.whiten", "grey"),
        ("images", "space.skips", 1),
        ("images", "execution.numerics", "fast"),
        ("language", "space.activations", ["a"]),
    ],
)
def test_the_remedy_works_as_it_stands_in_a_shell(task: str, key: str, value: Any) -> None:
    text = refused({"task": task, **nested(key, value)})
    remedy = text[text.index("--set ") :].removesuffix(" (in here.toml)")
    _, setting = shlex.split(remedy)
    config_from_dict(with_settings({"task": task}, [setting]), "here.toml")


def nested(key: str, value: Any) -> dict[str, Any]:
    """Return {"a": {"b": value}} for "a.b"."""
    head, _, rest = key.partition(".")
    return {head: nested(rest, value) if rest else value}


RANGES = [
    ("name", ""),
    ("name", "a/b"),
    ("name", "a\nb"),
    ("name", "\0"),
    ("name", "x" * 300),
    ("name", "\ud800"),
    ("space.depths", []),
    ("space.depths", [0]),
    ("space.depths", [4, 2]),
    ("space.depths", [10**9]),
    ("space.heights", [2]),
    ("space.filters", [-8]),
    ("space.layer_types", ["dense"]),
    ("space.block", 0),
    ("space.pools", [99]),
    ("space.learning_rates", [0.0]),
    ("child.widen", -1),
    ("child.batch_norm_epsilon", 0.0),
    ("controller.name", "astrology"),
    ("controller.batch", 0),
    ("controller.learning_rate", 0),
    ("controller.baseline_decay", 1.0),
    ("controller.heads", "many"),
    ("data.source", ""),
    ("data.validation", 0),
    ("data.validation", 10.5),
    ("data.test", 1),
    ("data.whiten", "grey"),
    ("data.train_limit", -1),
    ("training.epochs", 0),
    ("training.batch", 1),
    ("training.learning_rate", -0.1),
    ("training.momentum", 1),
    ("training.drops", [0.75, 0.5]),
    ("training.reward_power", 0),
    ("study.trials", 0),
    ("study.seed", -1),
    ("study.depth", {"start": 0}),
    ("study.depth", {"start": 8, "last": 6}),
    ("study.depth", {"start": 1, "step": 1, "last": 2**62}),
    ("study.depth", {"start": 6, "last": 8}),
    ("tune.top", 0),
    ("tune.learning_rates", []),
    ("tune.learning_rates", [0.1, 0.0]),
    ("tune.weight_decays", [-1e-4]),
    ("tune.epsilons", [0]),
    ("tune.drops", [[0.5, 0.5]]),
    ("tune.drops", [[0.5, 1.0]]),
    ("final.epochs", -1),
    ("final.widen", -1),
    ("execution.device", "toaster"),
    ("execution.device", ""),
    ("execution.threads", -1),
    ("execution.threads", 10**6),
]


@pytest.mark.parametrize(("key", "value"), RANGES)
def test_a_value_out_of_range_is_refused(key: str, value: Any) -> None:
    text = refused(nested(key, value))
    assert key.split(".")[0] in text
    assert key.rsplit(".", 1)[-1] in text
    assert "(in here.toml)" in text
    assert len(text) < 500


LANGUAGE_RANGES = [
    ("child.layers", 0),
    ("child.budget", 0),
    ("child.width", -1),
    ("child.embedding", -1),
    ("child", {"shared": True, "embedding": 3}),
    ("data.unit", "bytes"),
    ("data.train_limit", 39),
    ("data.vocabulary", 2),
    ("space.base", 65),
    ("space.combinations", []),
    ("space.activations", ["tanh", "tanh"]),
    ("training.batch", 0),
    ("training.schedule", "linear"),
    ("training.output_dropout", 1.0),
    ("study.depth", {"start": 2}),
    ("tune.top", 0),
    ("tune.train_limit", 39),
    ("tune.dropouts", [[0.1, 0.2, 0.3]]),
    ("final.budget", -1),
    ("final.train_limit", 39),
]


@pytest.mark.parametrize(("key", "value"), LANGUAGE_RANGES)
def test_a_value_out_of_range_for_language_is_refused(key: str, value: Any) -> None:
    """The 39 tokens are one too few for a batch of 20 columns."""
    text = refused({"task": "language"} | nested(key, value))
    assert key in text
    assert "(in here.toml)" in text
    assert len(text) < 500


@pytest.mark.parametrize(
    ("key", "values", "said"),
    [
        ("learning_rates", [1.0, -1], "must be above 0; got -1.0"),
        ("scales", [0.0], "must be above 0; got 0.0"),
        ("decay_afters", [-1], "must be 0 or more; got -1"),
        (
            "dropouts",
            [[0.2, 0.1], [0.1, 1.0]],
            "must hold pairs of rates in [0, 1); got [0.1, 1.0]",
        ),
    ],
)
def test_a_bad_value_of_the_grid_is_looked_for_there(key: str, values: Any, said: str) -> None:
    text = refused({"task": "language", "tune": {key: values}})
    assert text.startswith(f"tune.{key} {said}; use --set tune.{key}=")


def test_a_schedule_must_fit_the_depths() -> None:
    text = refused({"space": {"depths": [6, 10]}, "study": {"depth": {"start": 6, "last": 10}}})
    assert "from 6 to 10 in steps of 2; got [6, 10]" in text


@pytest.mark.parametrize("data", [None, 3, "text", [], [("name", "x")]])
def test_a_configuration_must_be_a_section(data: Any) -> None:
    assert "a configuration must be a section" in refused(data)


def test_a_device_of_another_machine_is_refused_when_it_is_used() -> None:
    settings_ = load_config("digits", ["execution.device=cuda:99"]).execution
    with pytest.raises(ConfigError, match="a device of this machine; 'cuda:99' is not"):
        settings_.check_device()
    load_config("digits").execution.check_device()


# --- --set --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("a.b=5", {"a": {"b": 5}}),
        ("a.b=0.5", {"a": {"b": 0.5}}),
        ("a=true", {"a": True}),
        ("a=[1, 2]", {"a": [1, 2]}),
        ('a="5"', {"a": "5"}),
        ("a={b = 1}", {"a": {"b": 1}}),
        ("a=hub:owner/name", {"a": "hub:owner/name"}),
        ("a=x=y", {"a": "x=y"}),
        ("a=", {"a": ""}),
        (" a.b = 5", {"a": {"b": 5}}),
        ("a=" + "9" * 5000, {"a": "9" * 5000}),
        ("a=" + "[" * 5000, {"a": "[" * 5000}),
    ],
)
def test_settings_are_toml_or_else_plain_text(setting: str, expected: dict[str, Any]) -> None:
    assert with_settings({}, [setting]) == expected


def test_settings_leave_the_data_and_the_other_keys_alone() -> None:
    data = {"a": {"b": 1, "c": 2}}
    assert with_settings(data, ["a.b=3", "a.b=4", "d.e=5"]) == {
        "a": {"b": 4, "c": 2},
        "d": {"e": 5},
    }
    assert data == {"a": {"b": 1, "c": 2}}


@pytest.mark.parametrize("setting", ["", "a", "=5", "a.=5", ".a=5", "a..b=5", " =1"])
def test_a_setting_of_another_form_is_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match="must be key=value"):
        with_settings({}, [setting])


def test_a_setting_must_go_through_sections() -> None:
    with pytest.raises(ConfigError, match=r"'name\.x=1', where 'name' is no section"):
        load_config("digits", ["name.x=1"])
    with pytest.raises(ConfigError, match="did you mean epochs"):
        load_config("digits", ["training.epoch=1"])


# --- files --------------------------------------------------------------------------------------


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\n', encoding="utf-8-sig")
    assert load_config(path).name == "mine"


def test_a_file_is_read_and_settings_come_last(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\n[training]\nepochs = 7\nbatch = 9\n')
    config = images(path, ("training.epochs=8",))
    assert config.name == "mine"
    assert (config.training.epochs, config.training.batch) == (8, 9)
    assert config.training.learning_rate == 0.1


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"name = ", "must be TOML"),
        (b"\xff\xfe", "must be TOML"),
        (b"a = " + b"[" * 100_000, "must be TOML"),
        (b"[study]\ntrials = " + b"9" * 5000, "must be TOML"),
        (b"[study]\ntrials = 0x" + b"f" * 5000, "within 64 bits"),
        (b"[tune]\nepsilons = [nan]", "within 64 bits"),
        (b"[study]\nseed = 2020-01-01", "a whole number"),
        (b'"a\\nb" = 1', "a key must be known"),
    ],
)
def test_a_bad_file_is_one_line(content: bytes, rule: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rule) as caught:
        load_config(path)
    assert str(caught.value).splitlines() == [str(caught.value)]
    assert "bad.toml" in str(caught.value)


@pytest.mark.parametrize("source", ["no-such", "", ".", "digits.toml/x", "a\0b", "x" * 5000])
def test_a_source_that_cannot_be_read_is_one_line(source: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(source)
    assert str(caught.value).splitlines() == [str(caught.value)]


# --- anything -----------------------------------------------------------------------------------


def known_keys(*classes: Any) -> set[str]:
    """Return every key that a configuration has, of all sections and tasks."""
    found = set()
    for cls in classes or TASKS.values():
        for field in dataclasses.fields(cls):
            found.add(field.name)
            made = field.default_factory
            if made is not dataclasses.MISSING and dataclasses.is_dataclass(made):
                found |= known_keys(made)
    return found


IMAGE_WORDS = ["", "digits", "channel", "zca", "cpu", "cuda", "meta", "random", "conv", "max_pool"]
TEXT_WORDS = ["kind", "language", "words", "characters", "adam", "cosine", "add", "tanh", "stdlib"]
WORDS = st.sampled_from(IMAGE_WORDS + TEXT_WORDS)
NUMBERS = st.one_of(
    st.integers(-3, 20),
    st.sampled_from([2**63 - 1, 2**63, -(2**63) - 1, 10**400, -(10**4000), 1 << 14000]),
    st.sampled_from([0.5, 0.75, 1e-5, 1e300, -0.0, math.nan, math.inf, -math.inf]),
    st.floats(),
)
PLAIN = st.none() | st.booleans() | NUMBERS | WORDS | st.text(max_size=8)
SOUND = st.one_of(
    st.sampled_from([0.1, 0.5, 1, 3, 5, True, False, "digits", "cpu", "conv", "random"]),
    st.lists(st.sampled_from([1, 3, 5, 0.2, 0.7]), min_size=1, max_size=3).map(sorted),
)
KEYS = st.one_of(
    st.sampled_from(sorted(known_keys())),
    st.sampled_from(sorted(known_keys())).flatmap(
        lambda key: st.sampled_from([key[1:], key + "s", key.upper(), key[::-1], f"{key}.{key}"])
    ),
    st.text(max_size=4),
    st.integers() | st.none() | st.tuples(st.booleans()),
)
VALUES = st.recursive(
    PLAIN | SOUND,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@st.composite
def nearly_right(draw: st.DrawFn) -> dict[Any, Any]:
    """Return the data of a preset with a few values replaced, removed or misplaced."""
    data = load_config(draw(st.sampled_from(NAMES))).to_dict()
    for _ in range(draw(st.integers(0, 3))):
        section: dict[Any, Any] = data
        key = draw(st.sampled_from(sorted(section, key=str)) | KEYS)
        if isinstance(section.get(key), dict) and draw(st.integers(0, 4)):
            section = section[key]
            key = draw(st.sampled_from(sorted(section, key=str)) | KEYS if section else KEYS)
        if draw(st.booleans()):
            section[key] = draw(VALUES)
        else:
            section.pop(key, None)
    return data


def deep(levels: int) -> Any:
    """Return lists in lists."""
    result: Any = []
    for _ in range(levels):
        result = [result]
    return result


def one_line_or_a_round_trip(read: Any) -> None:
    """Call `read`: it may raise a ConfigError of one line, or return what survives plain data."""
    try:
        config = read()
    except ConfigError as error:
        text = str(error)
        assert text.splitlines() == [text]
        assert len(text) < 1500
        return
    assert config_from_dict(config.to_dict(), "again") == config


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(nearly_right(), st.dictionaries(KEYS, VALUES, max_size=5), VALUES))
@example({"tune": {"epsilons": [math.nan]}})
@example({"study": {"depth": {"start": 1, "step": 1, "last": 2**63 - 1}}})
@example({("a", 1): 1})
@example({"name": "\udcff"})
def test_any_data_is_a_configuration_or_one_line(data: Any) -> None:
    one_line_or_a_round_trip(lambda: config_from_dict(data, "generated"))


@pytest.mark.parametrize("key", ["training.epochs", "training", "tune.drops", "other"])
def test_data_nested_too_deep_is_one_line(key: str) -> None:
    assert "too large to print" in refused(nested(key, deep(5000))) or key == "other"


TOML = st.lists(
    st.one_of(
        st.sampled_from(sorted(known_keys())).map(lambda key: f"[{key}]"),
        st.tuples(
            st.sampled_from(sorted(known_keys())),
            st.sampled_from(["1", "0.5", "nan", "inf", "[]", "[3]", '""', "{}", "0x" + "f" * 30]),
        ).map(" = ".join),
        st.text(max_size=20),
    ),
    max_size=6,
).map("\n".join)


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(content=st.one_of(TOML.map(str.encode), st.binary(max_size=60)))
def test_any_file_is_a_configuration_or_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "any.toml"
    path.write_bytes(content)
    one_line_or_a_round_trip(lambda: load_config(path))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(TOML, st.text(max_size=20)), max_size=3))
def test_any_settings_are_a_configuration_or_one_line(texts: list[str]) -> None:
    one_line_or_a_round_trip(lambda: load_config("digits", texts))


@pytest.mark.parametrize("name", sorted(presets()))
def test_a_whole_configuration_printed_as_toml_reads_back(name: str, tmp_path: Path) -> None:
    path = tmp_path / "whole.toml"
    path.write_text(to_toml(load_config(name).to_dict()))
    assert load_config(path) == load_config(name)
