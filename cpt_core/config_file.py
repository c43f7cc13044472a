"""From a YAML file and `--set` overrides to a ``PipelineConfig``.

In: the path of a YAML file; overrides such as ``training.max_steps=10``.
Out: the validated configuration, its local paths made absolute against the current folder.
Promise: whatever is wrong ends in one ``ConfigError`` that names field, value, expectation and the nearest key.
Never: fills in a value that the configuration model does not define.
"""

import difflib
import types
import typing
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from cpt_core.config import PipelineConfig
from cpt_core.errors import ConfigError


def load_config(path: str, overrides: list[str] | None = None) -> PipelineConfig:
    """Read, override, validate.

    Args:
        path: a YAML file.
        overrides: ``dotted.key=value`` strings; the value is read as YAML.

    Raises:
        ConfigError: naming the file and every field that is wrong.
    """
    values = _read_yaml(path)
    for override in overrides or []:
        _apply_override(values, override)
    try:
        config = PipelineConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{path}: {describe_validation(error, PipelineConfig)}") from None
    return with_absolute_paths(config)


def describe_validation(error: ValidationError, model: type[BaseModel]) -> str:
    """Every problem of a validation as one line: field, value seen, expectation, nearest valid key."""
    return "; ".join(_describe(problem, model) for problem in error.errors())


def with_absolute_paths(config: PipelineConfig, folder: Path | None = None) -> PipelineConfig:
    """The same configuration with every local path absolute, so that it means the same in another process."""
    base = folder or Path.cwd()

    def absolute(uri: str) -> str:
        return uri if "://" in uri else str(base / Path(uri).expanduser())

    def absolute_if_there(folder_or_hub_id: str) -> str:
        folder = absolute(folder_or_hub_id)
        return folder if Path(folder).exists() else folder_or_hub_id

    values = config.model_dump(mode="json")
    values["store_uri"] = absolute(config.store_uri)
    for source in values["discovery"]["sources"]:
        source["uris"] = [absolute(uri) for uri in source["uris"]]
    values["tokenization"]["tokenizer"] = absolute_if_there(config.tokenization.tokenizer)
    if config.tokenization.repairs:
        values["tokenization"]["repairs"] = absolute(config.tokenization.repairs)
    if config.training:
        values["training"]["model"] = absolute_if_there(config.training.model)
        if config.training.output_dir:
            values["training"]["output_dir"] = absolute(config.training.output_dir)
    return PipelineConfig.model_validate(values)


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; expected the path of a YAML configuration") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: is a YAML {type(values).__name__}, expected a mapping with the key `name`")
    return values


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {override}: expected dotted.key=value, such as training.max_steps=10")
    *parents, last = key.split(".")
    target: Any = values
    for position, parent in enumerate(parents):
        target = _child(target, parent, ".".join(parents[: position + 1]))
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigError(f"--set {override}: the value {text!r} is not valid YAML") from None
    if isinstance(target, list):
        target[_list_position(target, last, key)] = value
    else:
        target[last] = value


def _child(target: Any, key: str, path: str) -> Any:
    if isinstance(target, list):
        return target[_list_position(target, key, path)]
    child = target.setdefault(key, {})
    if child is None:
        child = target[key] = {}
    if not isinstance(child, dict | list):
        raise ConfigError(f"--set: {path} is the value {child!r}, expected a section")
    return child


def _list_position(target: list[Any], key: str, path: str) -> int:
    if not key.isdecimal() or int(key) >= len(target):
        raise ConfigError(f"--set: {path} is position {key!r} of a list, expected 0 to {len(target) - 1}")
    return int(key)


def _describe(problem: Any, model: type[BaseModel]) -> str:
    location = [part for part in problem["loc"] if isinstance(part, str | int)]
    field = ".".join(str(part) for part in location) or "configuration"
    if problem["type"] == "extra_forbidden":
        valid = sorted(_model_at(model, location[:-1]).model_fields)
        near = difflib.get_close_matches(str(location[-1]), valid, n=1)
        hint = f"did you mean {near[0]}?" if near else f"valid keys are {', '.join(valid)}"
        return f"{field} is not a key; {hint}"
    if problem["type"] == "missing":
        return f"{field} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{field}: {message}" if location else message
    return f"{field} is {problem['input']!r}, expected: {message[:1].lower()}{message[1:]}"


def _model_at(model: type[BaseModel], location: list[str | int]) -> type[BaseModel]:
    """The section that a location leads to."""
    for part in location:
        if isinstance(part, int):
            continue
        model = _section_in(model.model_fields[part].annotation)
    return model


def _section_in(annotation: Any) -> type[BaseModel]:
    """The one section inside ``Section``, ``Section | None``, ``list[Section]`` and the like."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, BaseModel):
            return annotation
        raise TypeError(f"{annotation} holds no section")
    for argument in typing.get_args(annotation):
        if argument is not type(None):
            return _section_in(argument)
    raise TypeError(f"{annotation} holds no section")
