"""YAML of recipe files: plain data within bounds, each key once, no aliases, and 1e-5 is a number."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any

import yaml

from gearshift.core.boundary import Misfit
from gearshift.core.errors import quoted

MOST_BYTES = 1 << 17
DEEPEST = 50  # lists and dicts inside of each other
PLAIN = ("null", "bool", "int", "float", "str", "seq", "map")
TAG = "tag:yaml.org,2002:"
FLOAT = re.compile(r"[-+]?(?:\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$")


class _Plain:
    """How scalars are told apart, the same in reading and in writing: no dates, no merges, all floats."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(t, p) for t, p in known if t.removeprefix(TAG) in PLAIN] + [(f"{TAG}float", FLOAT)]
        for first, known in {**dict.fromkeys("-+.0123456789", ()), **yaml.SafeLoader.yaml_implicit_resolvers}.items()
    }


class _Loader(_Plain, yaml.SafeLoader):
    yaml_constructors = {  # noqa: RUF012
        tag: make
        for tag, make in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.removeprefix(TAG) in PLAIN
    }

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        line = self.peek_event().start_mark.line + 1
        if self.check_event(yaml.AliasEvent):
            raise Misfit(f"line {line} has an alias, and none are read")
        self.depth += 1
        if self.depth > DEEPEST:  # PyYAML's time grows with the square of the depth
            raise Misfit(f"line {line} is nested too deeply")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else None
            if name is None or name in seen:
                fault = "a key that is no name" if name is None else f"the key {quoted(name)} twice"
                raise Misfit(f"line {key.start_mark.line + 1} has {fault}")
            seen.add(name)
        return super().construct_mapping(node, deep)


class _Dumper(_Plain, yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def read_yaml(path: Path) -> Any:
    """The one document of a file.

    Raises:
        OSError, ValueError, yaml.YAMLError, RecursionError: if it cannot be read or holds anything but plain data.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise Misfit("it is not a file")
    if found.st_size > MOST_BYTES:
        raise Misfit(f"it has {found.st_size} bytes, and at most {MOST_BYTES} are read")
    return yaml.load(path.read_text(encoding="utf-8"), _Loader)


def write_yaml(data: Any) -> str:
    """Plain data as YAML that `read_yaml` reads back."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False)
