"""A run as one HTML file: self-contained, complete without its script, a pure function of the run folder."""

import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fedkvasir.files import write_atomic
from fedkvasir.report import charts
from fedkvasir.report.sections import describe
from fedkvasir.report.tables import RENDERED, number
from fedkvasir.runs import Run

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
# What belongs together stays on one line: 95 %, p < 0.001, [0.73, 0.81].
TOGETHER = re.compile(r" (?=%)|(?<=p) (?=[<=])|(?<=[<=]) |(?<=\d,) (?=[^\[]*\])")
TEMPLATES.filters["tight"] = lambda text: TOGETHER.sub("\u00a0", text)
TEMPLATES.globals |= {"key": charts.key, "number": number, "zip": zip, "RENDERED": RENDERED}


def build_report(run: Run) -> Path:
    """Write ``report.html`` into the run's folder and return its path; of an unfinished run, what is there.

    The same folder gives the same bytes. Raises UserError where the folder is not a run.
    """
    path = run.folder / "report.html"
    write_atomic(path, TEMPLATES.get_template("report.html").render(describe(run)))
    return path
