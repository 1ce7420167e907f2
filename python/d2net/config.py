"""One typed configuration: every choice of a run is a field of a section; recipes and presets fill them in."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_serializer, model_validator

from d2net.data.files import DataError, shown, write_text
from d2net.methods import METHODS, settings_of
from d2net.methods.basnet.settings import BasNetConfig
from d2net.methods.threecnet.settings import ThreeCNetConfig
from d2net.methods.wtalc.settings import WtalcConfig
from d2net.section import Section
from d2net.sections import EvaluateConfig, LocalizeConfig, LossConfig, ModelConfig, TimingConfig, TrainConfig
from d2net.settings_files import read_settings, yaml_value

AUTO = "auto"  # the preset that is made from the data


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the field, its value and what to do."""


class Config(Section):
    """Everything that decides a run but its data."""

    recipe: Literal["release", "paper"] = Field("release", description="the authors' code, or the paper's text")
    preset: str | None = Field(None, description="thumos14, activitynet12 or hapt: what depends on the data")
    method: str = Field("d2net", description=", ".join(METHODS))
    model: ModelConfig = Field(default_factory=ModelConfig)
    loss: LossConfig = Field(default_factory=LossConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    localize: LocalizeConfig = Field(default_factory=LocalizeConfig)
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
    timing: TimingConfig = Field(default_factory=TimingConfig)
    wtalc: WtalcConfig = Field(default_factory=WtalcConfig)
    threecnet: ThreeCNetConfig = Field(default_factory=ThreeCNetConfig)
    basnet: BasNetConfig = Field(default_factory=BasNetConfig)

    @model_validator(mode="after")
    def _one_method(self) -> Config:
        if self.method not in METHODS:
            raise ValueError(f"unknown method {shown(self.method)}; there are {', '.join(METHODS)}")
        if self.method != "d2net" and self.recipe != "release":
            raise ValueError(f"recipe {self.recipe} is of method d2net; leave it out for {self.method}")
        for name in _others_of(self.method):
            own = getattr(self, name)
            if given := [field for field, value in own if value != type(own).model_fields[field].default]:
                raise ValueError(f"{name}.{given[0]} plays no part in method {self.method}; leave it out")
        if self.method == "wtalc" and self.train.batch_size < 2 * self.wtalc.pairs:
            raise ValueError(
                f"wtalc.pairs is {self.wtalc.pairs}, more than a batch of {self.train.batch_size} videos holds; lower "
                "it or raise train.batch_size"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_others(self, dump: Callable[[Config], dict[str, Any]]) -> dict[str, Any]:
        """Sections of methods that are not trained say nothing."""
        tree = dump(self)
        return {name: value for name, value in tree.items() if name not in _others_of(self.method)}

    def save(self, path: str | os.PathLike) -> None:
        """Writes TOML to a path that ends in .toml, else YAML."""
        tree = self.model_dump()
        text = _toml(tree) if Path(path).suffix == ".toml" else yaml.safe_dump(tree, sort_keys=False)
        write_text(path, text)


def _others_of(method: str) -> list[str]:
    """Sections of other methods."""
    return [section for name, section in METHODS.items() if name != method and section in Config.model_fields]


def _toml(tree: dict[str, Any]) -> str:
    """TOML has no null: "" stands for None."""

    def line(name: str, value: Any) -> str:
        return f"{name} = {json.dumps('' if value is None else value, ensure_ascii=False)}"

    lines = [line(k, v) for k, v in tree.items() if not isinstance(v, dict)]
    for section, fields in tree.items():
        if isinstance(fields, dict):
            lines += ["", f"[{section}]", *(line(k, v) for k, v in fields.items())]
    return "\n".join(lines) + "\n"


def _sections() -> Iterator[tuple[str, type[Section]]]:
    for name, field in Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield name, field.annotation


def field_names() -> list[str]:
    """Every field as ``section.field``, and the top-level ones."""
    nested = [f"{section}.{field}" for section, kind in _sections() for field in kind.model_fields]
    return ["recipe", "preset", "method", *nested]


def _matches(name: str) -> list[str]:
    names = field_names()
    return [name] if name in names else [n for n in names if n.endswith(f".{name}")]


def _full_name(name: str) -> str:
    """``gamma`` or ``loss.gamma`` -> ``loss.gamma``."""
    names, matches = field_names(), _matches(name)
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ConfigError(f"field {name!r} is in several sections; say {' or '.join(matches)}")
    if name in dict(_sections()):
        raise ConfigError(f"{name!r} is a section; name one of its fields, as {name}.field")
    short = {n.rpartition(".")[2]: n for n in names}
    near = difflib.get_close_matches(name, [*names, *short], n=1, cutoff=0.65)
    hint = f"; did you mean {short.get(near[0], near[0])!r}?" if near else ""
    raise ConfigError(f"unknown field {name!r}{hint}")


def _flatten(tree: dict, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    sections = dict(_sections())
    for key, value in tree.items():
        if not prefix and key in sections:
            if value is not None and not isinstance(value, dict):
                raise ConfigError(f"section {key!r} must hold fields, got {shown(value)}")
            fields = _flatten(value or {}, f"{key}.")
        elif not prefix and isinstance(value, dict) and not _matches(str(key)):
            near = difflib.get_close_matches(str(key), sections, n=1, cutoff=0.5)
            raise ConfigError(f"unknown section {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        else:
            fields = {_full_name(prefix + str(key)): value}
        if twice := flat.keys() & fields.keys():
            raise ConfigError(f"field {min(twice)!r} is given twice; keep one")
        flat |= fields
    return flat


def _build(flat: dict[str, Any]) -> Config:
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        section, _, field = name.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[field] = value
    try:
        return Config.model_validate(tree)
    except (OverflowError, RecursionError, MemoryError) as error:
        raise ConfigError(f"config: a value is out of every range: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"][:2])
        got = "" if isinstance(first["input"], (dict, Section)) else f", got {shown(first['input'])}"
        got = "" if got in first["msg"] else got
        raise ConfigError(f"{where or 'config'}: {first['msg'].removeprefix('Value error, ')}{got}") from error


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """``["loss.gamma=0.02", "iterations=500"]`` -> fields and their YAML-typed values."""
    flat = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set takes field=value, got {text!r}")
        try:
            flat[_full_name(name.strip())] = yaml_value(value)
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(f"--set {name.strip()}: {shown(value)} is not a YAML value") from error
    return flat


def given_fields(overrides: dict[str, Any] | None = None, file: str | os.PathLike | None = None) -> dict[str, Any]:
    """What a file and overrides say, by full name, the overrides first.

    Raises:
        ConfigError: an unknown field.
    """
    return (_from_file(file) if file is not None else {}) | _flatten(overrides or {})


def _once(
    kind: str, argument: str | None, given: dict[str, Any], from_file: dict[str, Any], default: str | None = None
) -> Any:
    """The argument, else what the overrides say, else the file; the first two may not differ."""
    if argument is not None and given.get(kind, argument) != argument:
        raise ConfigError(f"{kind} is given twice, as {shown(argument)} and as {shown(given[kind])}; keep one")
    return next((v for v in (argument, given.get(kind), from_file.get(kind)) if v is not None), default)


def make_config(
    preset: str | None = None,
    recipe: str | None = None,
    overrides: dict[str, Any] | None = None,
    file: str | os.PathLike | None = None,
    *,
    method: str | None = None,
    chosen: dict[str, Any] | None = None,
) -> Config:
    """The recipe's fields, then the preset's, the method's, the file's, and the overrides (``{"loss.gamma": 0.02}``).

    Args:
        preset: thumos14, activitynet12 or hapt; none by default.
        recipe: release, the default, or paper.
        overrides: values by field, `section.field` or `field` where that is in one section.
        file: YAML or TOML of fields.
        method: one of `d2net.methods.METHODS`, d2net by default.
        chosen: fields that stand in the place of a preset's, as `auto_config` makes them.

    Returns:
        every field with its value, checked.

    Raises:
        ConfigError: an unknown recipe, preset, method or field (with the nearest name), a value out of range, or one
            that plays no part in the method.
    """
    from d2net.presets import PRESETS, RECIPES

    from_file = _from_file(file) if file is not None else {}
    given = _flatten(overrides or {})
    recipe = _once("recipe", recipe, given, from_file, "release")
    preset = _once("preset", preset, given, from_file)
    method = _once("method", method, given, from_file, "d2net")
    if chosen is not None:
        preset = None
    elif preset == AUTO:
        raise ConfigError("preset auto is made from data: d2net train, d2net ablate and d2net.auto.auto_config take it")
    for kind, name, known in (("recipe", recipe, RECIPES), ("preset", preset, PRESETS), ("method", method, METHODS)):
        if name is not None and (not isinstance(name, str) or name not in known):
            where = "" if file is None or given.get(kind) == name or from_file.get(kind) != name else f"{file}: "
            raise ConfigError(f"{where}unknown {kind} {shown(name)}; there are {', '.join(known)}")
    flat = dict(RECIPES[recipe]) | (chosen or {})
    if preset is not None:
        flat |= PRESETS[preset]["any"] | PRESETS[preset][recipe]
    flat |= settings_of(method, preset)
    try:
        if method != "d2net":
            _check_used(method, flat, from_file | given)
        return _build(flat | from_file | given | {"recipe": recipe, "preset": preset, "method": method})
    except ConfigError as error:
        field = str(error).partition(":")[0]
        own, other = ([n for n in names if f"{n}.".startswith(f"{field}.")] for names in (from_file, given))
        if own and not other:
            raise ConfigError(f"{file}: {error}") from error
        raise


POOLING = ("pool_divisor", "pool_rounding", "min_snippets")  # fields of loss that every method uses


def _check_used(method: str, base: dict[str, Any], given: dict[str, Any]) -> None:
    """Raises ConfigError where a field that only method d2net uses is given another value than it has anyway."""
    for name, value in given.items():
        section, _, field = name.partition(".")
        if section != "loss" or field in POOLING:
            continue
        if value != base.get(name, LossConfig.model_fields[field].default):
            raise ConfigError(f"{name} plays no part in method {method}; leave it out")


def load_config(path: str | os.PathLike) -> Config:
    """Reads YAML or TOML as `Config.save` writes it; fields it leaves out come from its recipe and preset.

    Args:
        path: the file; TOML where its name ends in .toml.

    Raises:
        ConfigError: as `make_config`, naming the file.
        DataError: not there, or neither YAML nor TOML.
    """
    return make_config(file=path)


def decoder_from(path: str | os.PathLike, config: Config) -> Config:
    """`config` with what a file says of localize and evaluate; its other sections play no part."""
    given = {n: v for n, v in _from_file(path).items() if n.startswith(("localize.", "evaluate."))}
    tree = config.model_dump()
    for name, value in given.items():
        section, _, field = name.partition(".")
        tree[section][field] = value
    try:
        return from_dict(tree)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def from_dict(tree: dict) -> Config:
    """From the plain dict of a checkpoint."""
    return _build(_flatten(tree))


def fields_of(config: Config) -> dict[str, Any]:
    """{section.field: value}, with recipe and preset by their own names."""
    return _flatten(config.model_dump())


def _from_file(path: str | os.PathLike) -> dict[str, Any]:
    try:
        return _flatten(read_settings(path))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except DataError as error:
        raise ConfigError(str(error)) from error
