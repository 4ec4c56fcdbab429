"""`cifar-serve --help`: every setting on a screen, in groups, with its default."""

import shutil
import textwrap
from typing import Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from server.settings import Settings

_GROUPS = {  # titles, by the first setting of each group
    "checkpoint": "Model and address",
    "engine": "Processes and batches",
    "max_body_bytes": "Limits of a request",
    "api_keys": "API keys, TLS, CORS",
    "log_format": "Logs",
}
_FLAG_COLUMNS = 34
_USAGE = """usage: cifar-serve [--FLAG VALUE ...]

{summary}
Every flag is an environment variable too: --max-images 9 is CIFAR_MAX_IMAGES=9. The flag
wins. The values shown are the defaults."""


def print_help() -> None:
    width = min(shutil.get_terminal_size().columns, 120)
    print(_USAGE.format(summary=Settings.__doc__))
    for name, field in Settings.model_fields.items():
        if name in _GROUPS:
            print(f"\n{_GROUPS[name]}:")
        meaning = f"{field.description}{_choices(field)}"
        print(textwrap.fill(meaning, width, initial_indent=_flag(name, field), subsequent_indent=" " * _FLAG_COLUMNS))


def _flag(name: str, field: FieldInfo) -> str:
    flag = name.replace("_", "-")
    if name == "api_keys":  # other users of the machine would see a flag
        flag = "CIFAR_API_KEYS"
    elif isinstance(field.default, bool):
        flag = f"--[no-]{flag}"
    else:
        flag = f"--{flag} {'' if field.default is None else field.default}"
    return f"  {flag:{_FLAG_COLUMNS - 3}} "


def _choices(field: FieldInfo) -> str:
    if isinstance(field.default, bool):
        return f" ({'on' if field.default else 'off'})"
    return f" ({', '.join(get_args(field.annotation))})" if get_origin(field.annotation) is Literal else ""
