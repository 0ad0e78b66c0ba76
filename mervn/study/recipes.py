"""Recipes: grids with a [paper] part, which gives the scores of a published table and its protocol.

`mervn ablate --recipe NAME` reads recipes/NAME.toml of this folder. A GRID.toml of the user can have
the same [paper] part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from features.config import SplitName
from features.errors import UsageError
from features.manifests.folds import PATTERN
from features.progress import Reporter
from features.suggestions import did_you_mean
from mervn.config import AblateOptions
from mervn.study.grid import Grid, key_of, read_grid
from mervn.study.toml_values import parse_toml, same

DEMO_FOLDER = Path("demo")
"""Folder of the demo corpus if --data is not given, as for `mervn demo`."""
Score = Field(None, ge=0, le=1)


class _Part(BaseModel):
    """A table of a TOML file: its keys have dashes, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=key_of)


class PaperValue(_Part):
    """One published score, or a bound of a score; the scores are fractions of 1."""

    axes: Mapping[str, Any] = {}
    """Values of axes of [rows]; the score is of each row that has them. Names are those of fields."""
    metric: Literal["accuracy", "macro_f1", "uar", "weighted_f1"]
    value: float | None = Score
    at_least: float | None = Score
    at_most: float | None = Score

    @model_validator(mode="after")
    def _check(self) -> Any:
        if sum(each is not None for each in (self.value, self.at_least, self.at_most)) != 1:
            raise ValueError("give one of value, at-least and at-most")
        return self

    @field_validator("axes")
    @classmethod
    def _with_names_of_fields(cls, axes: Mapping[str, Any]) -> Mapping[str, Any]:
        return {name.replace("-", "_"): value for name, value in axes.items()}

    @property
    def low(self) -> float:
        """The minimum of the scores that the paper states."""
        return next(each for each in (self.value, self.at_least, 0.0) if each is not None)

    @property
    def high(self) -> float:
        """The maximum of the scores that the paper states."""
        return next(each for each in (self.value, self.at_most, 1.0) if each is not None)

    def __str__(self) -> str:
        if self.value is not None:
            return f"{self.value:.4f}"
        return f">= {self.at_least:.2f}" if self.at_least is not None else f"<= {self.at_most:.2f}"

    def is_of(self, axes: Mapping[str, Any]) -> bool:
        """Tell whether this is a score of the row with these axes."""
        return all(name in axes and same(axes[name], value) for name, value in self.axes.items())


class Fault(_Part):
    """An utterance of a corpus with a known fault."""

    split: SplitName
    name: str
    """Utterance id, or the name of the audio file without its suffix."""
    fault: str


class Expects(_Part):
    """The data of the published table, as far as manifests can show them; None: not checked."""

    utterances: PositiveInt | None = None
    """Number of utterances of all splits, or of all folds."""
    labels: PositiveInt | None = None
    """Number of labels, after --label-map and --drop-label."""
    speakers: PositiveInt | None = None
    splits: Mapping[SplitName, PositiveInt] = {}
    """Number of utterances of each split of the manifests."""
    folds: PositiveInt | None = None
    fold_key: str | None = None
    """Manifest key of which each fold has one value as its test split, such as `session`."""
    fold_speakers: PositiveInt | None = None
    """Number of speakers in the test split of each fold."""
    disjoint_speakers: bool = False
    """Whether no speaker of test is in train or valid."""
    unknown: str | None = None
    """A reason for which no manifests can show that the split is the same."""
    faults: Sequence[Fault] = ()


class Paper(_Part):
    """The [paper] part of a grid."""

    source: str
    table: str
    protocol: str
    differs: Sequence[str] = ()
    """What the grid does otherwise than the paper, whatever the data are."""
    metrics: Sequence[Literal["accuracy", "macro_f1", "uar", "weighted_f1"]] = Field(min_length=1)
    """Metrics of the table, in the order of its lines."""
    expects: Expects = Expects()
    values: Sequence[PaperValue] = ()
    demo: Literal["audio", "text", "both", "none"] | None = None
    """Label set of the demo corpus that is used without --data."""
    corpus_seed: NonNegativeInt = 0
    """Seed of the demo corpus."""

    def value_of(self, axes: Mapping[str, Any], metric: str) -> PaperValue | None:
        """Return the published score of a row, or None."""
        return next((each for each in self.values if each.metric == metric and each.is_of(axes)), None)


def grid_file(recipe: str | None) -> Path:
    """Return the file of a recipe of `mervn.registry.Recipe`; for None the example of a grid."""
    folder = Path(__file__).parent
    return folder / "example.toml" if recipe is None else folder / "recipes" / f"{recipe}.toml"


def read_paper(path: Path) -> Paper | None:
    """Read the [paper] part of a grid; None if it has none.

    Raises UsageError, which lists all faults.
    """
    document = parse_toml(path).get("paper")
    if document is None:
        return None
    try:
        return Paper.model_validate(document)
    except ValidationError as error:
        faults = []
        for detail in error.errors():
            place = " ".join(str(part + 1 if isinstance(part, int) else part) for part in detail["loc"])
            message = detail["msg"].removeprefix("Value error, ")
            faults.append(f"{path}: [paper] {place}: {message[0].lower()}{message[1:]}, found {detail['input']!r}")
        raise UsageError("\n".join(faults)) from error


def check_values(paper: Paper, grid: Grid) -> None:
    """Raise UsageError if a published score is of no row of the grid, or of a metric without a line."""
    faults = []
    for number, value in enumerate(paper.values, 1):
        place = f"{grid.path}: [paper] values {number}"
        unknown = [name for name in value.axes if name not in grid.rows]
        if unknown:
            near = did_you_mean(key_of(unknown[0]), map(key_of, grid.rows))
            faults.append(f"{place}: axes must be axes of [rows], found {key_of(unknown[0])!r}{near}")
        elif not any(value.is_of(each) for each in grid.combinations()):
            shown = ", ".join(f"{key_of(name)}={each}" for name, each in value.axes.items())
            faults.append(f"{place}: the score must be of a row of the grid, found {shown}; remove the score")
        if value.metric not in paper.metrics:
            faults.append(f"{place}: metric must be one of metrics, {', '.join(paper.metrics)}, found {value.metric}")
    if faults:
        raise UsageError("\n".join(faults))


def prepare_data(paper: Paper | None, options: AblateOptions, reporter: Reporter) -> AblateOptions:
    """Return the options with the data of a recipe: the demo corpus if it is meant, made if missing.

    Returns the same options for other grids. UsageError if a dry run finds no corpus, since it
    writes nothing.
    """
    if paper is None or paper.demo is None or options.data is not None:
        return options
    from mervn.demo.corpus import MARKER_FILE, make_corpus

    if options.dry_run and not (DEMO_FOLDER / MARKER_FILE).is_file():
        raise UsageError(
            f"--dry-run writes nothing, but the demo corpus {DEMO_FOLDER} does not exist; make it with "
            "`mervn demo --corpus-only`"
        )
    corpus = make_corpus(DEMO_FOLDER, paper.corpus_seed)
    reporter.say(f"demo corpus: {DEMO_FOLDER}, {'kept' if corpus.reused else f'made in {corpus.seconds:.0f} s'}")
    stores = options.features_dir or DEMO_FOLDER / "stores"  # as for `mervn demo`: all label sets share them
    return options.model_copy(update={"data": DEMO_FOLDER / paper.demo, "features_dir": stores})


def require_folds(paper: Paper | None, grid: Path, options: AblateOptions, data: Path) -> None:
    """Raise UsageError if a recipe needs folds and the data folder has no file of folds."""
    if paper is None or paper.expects.folds is None or list(data.glob(PATTERN)):
        return
    if "fold_file" not in read_grid(grid, options.trust_code).base:
        key = paper.expects.fold_key
        rule = f" with one value of {key!r} as the test split of each fold" if key else ""
        raise UsageError(
            f"{grid.stem} needs {data}/folds-{paper.expects.folds}.json{rule}, but {data} has no {PATTERN}. The data "
            f"must be those of the paper: {paper.protocol}. docs/recipes.md shows how to make the folds"
        )
