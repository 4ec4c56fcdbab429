"""docs/operations.md says what the code does. `python -m tests.server.test_operations` regenerates its tables."""

import ast
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import GaugeMetricFamily
from pydantic import SecretStr

from server import errors, exposition, metrics
from server.settings import Settings

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "operations.md"


def table(*header: str, rows: Iterator[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def settings_table() -> str:
    def rows() -> Iterator[tuple[str, ...]]:
        for name, field in Settings.model_fields.items():
            flag = f"--{name.replace('_', '-')}"
            flags = f"`{flag}`, `--no-{flag[2:]}`" if field.annotation is bool else f"`{flag}`"
            default = "" if field.default in (None, "") else f"`{str(field.default).lower()}`"
            secret = SecretStr.__name__ in str(field.annotation)
            yield "" if secret else flags, f"`CIFAR_{name.upper()}`", default, field.description or ""

    return table("flag", "environment", "default", "meaning", rows=rows())


def metrics_table() -> str:
    def rows() -> Iterator[tuple[str, ...]]:
        for metric in vars(metrics).values():
            if isinstance(metric, MetricWrapperBase):
                name = metric._name + ("_total" if metric._type == "counter" else "")
                yield f"`{name}`", str(metric._type), ", ".join(metric._labelnames), metric._documentation
        for family in exposition.ServedModel("", None).collect():
            if isinstance(family, GaugeMetricFamily):
                yield f"`{family.name}`", "gauge", ", ".join(family._labelnames), family.documentation
            else:
                yield f"`{family.name}_info`", "gauge", "model, version, architecture", family.documentation

    return table("metric", "type", "labels", "meaning", rows=rows())


def refusals_table() -> str:
    def rows() -> Iterator[tuple[str, ...]]:
        for kind in errors.ServiceError.__subclasses__():
            yield str(int(kind.status)), f"`{kind.code}`", str(kind.__doc__)
        yield "404", "`not_found`", "No such path."
        yield "405", "`method_not_allowed`", "The path takes another method."
        yield "500", f"`{errors.ServiceError.code}`", "The service failed on this request; the log has the reason."

    return table("status", "code", "meaning", rows=iter(sorted(rows())))


def with_tables(page: str) -> str:
    tables = {"settings": settings_table(), "metrics": metrics_table(), "refusals": refusals_table()}
    for name, rows in tables.items():
        opening = f"<!-- {name} -->\n"
        before, _, after = page.partition(opening)
        page = before + opening + rows + "<!-- end -->" + after.partition("<!-- end -->")[2]
    return page


def codes_in(source: Path) -> Iterator[str]:
    """The codes that this file gives to images and refusals, where it makes them."""
    kinds = {"ImageError", *(kind.__name__ for kind in errors.ServiceError.__subclasses__())}
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds:
            position = 0 if node.func.id == "ImageError" else 1
            for argument in node.args[position : position + 1]:
                if isinstance(argument, ast.Constant):
                    yield str(argument.value)


def test_the_tables_of_the_operations_page_are_those_of_the_code() -> None:
    assert PAGE.read_text() == with_tables(PAGE.read_text()), "write it anew: python -m tests.server.test_operations"


def test_the_operations_page_names_every_code() -> None:
    page = PAGE.read_text()
    codes = {
        code for folder in ("models", "server") for path in (ROOT / folder).glob("*.py") for code in codes_in(path)
    }
    assert {"empty", "too_many_images"} <= codes
    assert not {code for code in codes if f"`{code}`" not in page}


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text()))
