"""What sections of the configuration have in common."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator, model_validator

from d2net.data.files import shown


def _optional(field: Any) -> bool:
    return field is not None and type(None) in get_args(field.annotation)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @field_validator("subsets", mode="before", check_fields=False)
    @classmethod
    def _names(cls, value: Any) -> Any:
        return [name.strip() for name in value.split(",")] if isinstance(value, str) else value

    @field_validator("*", mode="before")
    @classmethod
    def _no_flag(cls, value: Any, info: ValidationInfo) -> Any:
        """true is no 1: a flag in place of a number, or among them, is a mistake. YAML's on and off are flags."""
        annotation = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and {"on", "off"} <= set(get_args(annotation)):
            return "on" if value else "off"
        values = value if isinstance(value, (list, tuple)) else [value]
        if any(isinstance(v, bool) for v in values) and annotation is not bool:
            raise ValueError("must not be true or false")
        return value

    @model_validator(mode="before")
    @classmethod
    def _none(cls, tree: Any) -> Any:
        """`None`, as Python writes it, is YAML's null where a field may be empty."""
        if not isinstance(tree, dict):
            return tree
        return {k: None if v == "None" and _optional(cls.model_fields.get(k)) else v for k, v in tree.items()}

    @model_validator(mode="after")
    def _countable(self) -> Section:
        for name, value in self:
            most = 2**63 - 1 if name == "seed" else 2**31 - 1
            if isinstance(value, int) and abs(value) > most:
                raise ValueError(f"{name} must be at most {most}, got {shown(value)}")
        return self
