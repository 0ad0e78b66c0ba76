"""Recipes: the built-in grids are valid and have the published scores; faults in [paper] are named."""

import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
from tiny import Recorder

from cli.main import run as mervn
from features.errors import UsageError
from mervn.config import AblateOptions
from mervn.demo import corpus, known_answers
from mervn.registry import Recipe
from mervn.study.cells import make_rows
from mervn.study.grid import read_grid
from mervn.study.recipes import DEMO_FOLDER, check_values, grid_file, prepare_data, read_paper, require_folds

NAMES: tuple[Recipe, ...] = get_args(Recipe)
PUBLISHED = {
    "superb-iemocap": {"wav2vec2": (63.43,), "hubert": (67.62,), "wavlm": (70.62,)},
    "emobox-iemocap": {
        "wav2vec2": (58.27, 57.73, 57.83), "hubert": (67.42, 66.69, 67.24), "wavlm": (69.47, 69.07, 69.29),
        "whisper": (73.54, 72.86, 73.11),
    },
}  # fmt: skip
"""In percent, in the order of the metrics of the recipe."""
PAPER = """
[rows]
fusion = ["late", "text"]
[paper]
source = "S"
table = "T"
protocol = "P"
metrics = ["uar"]
"""
VALUE = '[[paper.values]]\naxes = { fusion = "text" }\nmetric = "uar"\n'


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_a_grid_whose_options_are_valid(name: Recipe) -> None:
    path = grid_file(name)
    grid, paper = read_grid(path), read_paper(path)
    assert paper is not None and grid.name == name
    check_values(paper, grid)
    rows = make_rows(grid, {"device": "cpu"})
    assert sum(row.is_reference for row in rows) == 1


def test_every_file_of_the_folder_is_a_recipe_that_the_option_takes() -> None:
    assert {path.stem for path in grid_file("demo").parent.iterdir()} == set(NAMES)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_recipes_of_iemocap_have_the_published_scores(name: Recipe) -> None:
    paper, grid = read_paper(grid_file(name)), read_grid(grid_file(name))
    assert paper is not None
    found: dict[str, tuple[float, ...]] = {}
    for axes in grid.combinations():
        values = [paper.value_of(axes, metric) for metric in paper.metrics]
        encoder = axes["audio_encoder"].partition("=")[0]
        found[encoder] = tuple(round(100 * value.low, 2) for value in values if value is not None)
    assert found == PUBLISHED[name]
    assert len(paper.values) == sum(map(len, found.values()))


def test_visec_has_one_score_for_all_encoders_and_meld_has_none() -> None:
    visec, meld = read_paper(grid_file("visec")), read_paper(grid_file("meld"))
    assert visec is not None and meld is not None and not meld.values
    value = visec.value_of({"audio_encoder": "wav2vec2"}, "weighted_f1")
    assert value is not None and (value.low, value.high, str(value)) == (0.7176, 0.7176, "0.7176")
    assert visec.value_of({"audio_encoder": "wav2vec2"}, "macro_f1") is None


@pytest.mark.parametrize(("name", "label_set"), [("demo", "both"), ("demo-none", "none")])
def test_the_recipes_of_the_demo_have_its_options_and_known_answers(name: Recipe, label_set: str) -> None:
    grid, paper = read_grid(grid_file(name)), read_paper(grid_file(name))
    encoders = {f"{modality}_encoder": encoder for modality, encoder in known_answers.ENCODERS.items()}
    base = {key: tuple(value) if isinstance(value, list) else value for key, value in grid.base.items()}
    assert base == known_answers.SETTINGS | encoders and grid.seeds == (0,)
    assert paper is not None and paper.demo == label_set
    assert set(grid.rows["fusion"]) == set(known_answers.FUSIONS)
    bounds = {}
    for answer in known_answers.ANSWERS:
        if answer.label_set == label_set:
            bounds |= dict.fromkeys(answer.fusions, (answer.at_least, answer.bound))
    found = {}
    for value in paper.values:
        bound = value.at_least if value.at_least is not None else value.at_most
        found[value.axes["fusion"]] = value.at_least is not None, bound
    assert found == bounds
    counts = dict.fromkeys(corpus.SPEAKERS, 0)
    for split, speakers in corpus.SPEAKERS.items():
        counts[split] = len(speakers) * corpus.PASSES[split] * corpus.TEMPLATES_PER_PASS[split] * 2
    assert dict(paper.expects.splits) == counts
    assert paper.expects.speakers == sum(map(len, corpus.SPEAKERS.values()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sources = 1\n", r"\[paper\] sources: extra inputs are not permitted, found 1"),
        (f"{VALUE}value = 63.4\n", r"\[paper\] values 1 value: input should be less than or equal to 1, found 63.4"),
        (VALUE, "values 1: give one of value, at-least and at-most"),
        (f"{VALUE}value = 0.5\nat-most = 0.6\n", "values 1: give one of value, at-least and at-most"),
        (f"{VALUE}value = 0.5\n".replace("fusion =", "fusions ="), "found 'fusions'; did you mean fusion?"),
        (f"{VALUE}value = 0.5\n".replace('"text"', '"audio"'), "must be of a row of the grid, found fusion=audio"),
        (f"{VALUE}value = 0.5\n".replace('"uar"', '"accuracy"'), "metric must be one of metrics, uar, found accuracy"),
        ("[paper.expects]\nspeaker = 1\n", "expects speaker: extra inputs"),
        ("[paper.expects]\nfold-speakers = 0\n", "expects fold-speakers: input should be greater than 0, found 0"),
    ],
)
def test_faults_of_the_paper_part_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "GRID.toml"
    path.write_text(PAPER + text)
    with pytest.raises(UsageError, match=message):
        paper = read_paper(path)
        assert paper is not None
        check_values(paper, read_grid(path))


def test_a_grid_without_the_part_is_no_recipe(tmp_path: Path) -> None:
    path = tmp_path / "GRID.toml"
    path.write_text('[rows]\nfusion = ["late", "text"]\n')
    assert read_paper(path) is None and read_paper(grid_file(None)) is None
    path.write_text('paper = "SUPERB"\n[rows]\nfusion = ["late", "text"]\n')
    with pytest.raises(UsageError, match=r"\[paper\] : input should be a valid dictionary .*found 'SUPERB'"):
        read_paper(path)


def test_the_demo_recipe_makes_its_corpus_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made: list[Any] = []

    def make(folder: Path, seed: int) -> corpus.CorpusSummary:
        made.append((folder, seed))
        return corpus.CorpusSummary(folder, {}, 0.5, reused=bool(made[1:]))

    monkeypatch.setattr(corpus, "make_corpus", make)
    paper, recorder = read_paper(grid_file("demo-none")), Recorder()
    with pytest.raises(UsageError, match="--dry-run writes nothing, but the demo corpus demo does not exist"):
        prepare_data(paper, AblateOptions(dry_run=True), recorder)
    options = prepare_data(paper, AblateOptions(), recorder)
    assert (options.data, options.features_dir) == (DEMO_FOLDER / "none", DEMO_FOLDER / "stores")
    assert prepare_data(paper, AblateOptions(features_dir=tmp_path), recorder).features_dir == tmp_path
    assert made == [(DEMO_FOLDER, 0)] * 2 and "made in" in recorder.lines[0] and "kept" in recorder.lines[1]
    own = AblateOptions(data=tmp_path)
    assert prepare_data(paper, own, recorder) is own and prepare_data(None, own, recorder) is own
    assert len(made) == 2


def test_data_without_folds_are_refused_before_any_work(tmp_path: Path) -> None:
    path = grid_file("superb-iemocap")
    with pytest.raises(UsageError, match="folds-5.json with one value of 'session' as the test split of each fold"):
        require_folds(read_paper(path), path, AblateOptions(), tmp_path)
    own = tmp_path / "own.toml"
    own.write_text(path.read_text("utf-8").replace("[base]", '[base]\nfold-file = "folds.json"'), "utf-8")
    require_folds(read_paper(own), own, AblateOptions(), tmp_path)
    (tmp_path / "folds-5.json").touch()
    require_folds(read_paper(path), path, AblateOptions(), tmp_path)


def test_the_command_prints_a_recipe_and_refuses_what_it_cannot_mean(capsys: pytest.CaptureFixture[str]) -> None:
    assert mervn(["ablate", "--recipe", "visec", "--example"]) == 0
    printed = capsys.readouterr().out
    assert printed == grid_file("visec").read_text("utf-8") and "paper" in tomllib.loads(printed)
    for arguments, message in (
        (["--recipe", "superb"], "'meld', 'superb-iemocap' or 'visec', found 'superb'"),
        (["x.toml", "--recipe", "demo"], "give GRID.toml or --recipe, found both: x.toml and demo"),
        ([], "mervn ablate GRID.toml, or --recipe NAME"),
    ):
        assert mervn(["ablate", *arguments]) == 2
        assert message in capsys.readouterr().err
