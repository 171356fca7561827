"""The config reference in Markdown, generated from the fields: `python -m configs.reference`."""

from pydantic import BaseModel

from configs.fields import FieldDoc, field_docs, group_of
from configs.schema import RunConfig, StudyConfig
from configs.site import SiteConfig


def reference() -> str:
    """A table per group of fields: those of a study, of a run and of the groups within it, and of a cluster's site."""
    study = {name: doc for name, doc in field_docs(StudyConfig).items() if not name.startswith("base.")}
    base = StudyConfig.model_fields["base"]
    study["base"] = FieldDoc("a run, or the path of its file", "", base.description or "")
    site = _section("Site", SiteConfig, dict(field_docs(SiteConfig)))
    return "\n\n".join([_section("Study", StudyConfig, study), *run_sections(), site]) + "\n"


def run_sections() -> list[str]:
    """The run's own fields, then those of its groups under their dotted names."""
    docs = field_docs(RunConfig)
    sections = [_section("Run", RunConfig, {name: doc for name, doc in docs.items() if "." not in name})]
    for group, field in RunConfig.model_fields.items():
        if model := group_of(field):
            members = {name: doc for name, doc in docs.items() if name.startswith(f"{group}.")}
            sections.append(_section(f"`{group}`", model, members))
    return sections


def _section(title: str, model: type[BaseModel], docs: dict[str, FieldDoc]) -> str:
    rows = [f"| `{name}` | {_code(doc.default)} | {doc.allowed} | {doc.description} |" for name, doc in docs.items()]
    head = ["| field | default | allowed | meaning |", "|---|---|---|---|"]
    intro = (model.__doc__ or "").strip().splitlines()[0]
    return "\n".join([f"### {title}", "", intro, "", *head, *rows])


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


if __name__ == "__main__":
    print(reference(), end="")
