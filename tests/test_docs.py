"""README.md and docs/*.md: every code block runs, every link and option exists, and the file trees are complete.

Blocks of one page run in order, in a folder with a small corpus, its stores and the run `runs/first`.

```bash      runs line by line; a line that begins with `mervn` runs inside this process
```python    is executed; a block whose first line is `# some/path.py` becomes that file instead
```toml      is parsed; a block whose first line is `# some/path.toml` becomes that file
```json      each line is parsed
```text      is shown only: output, formulas, diagrams; never a command

A block that cannot run in a test has `<!-- not run: REASON -->` in the line above it, and an entry in NOT_RUN.
"""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import soundfile
from tiny import RATE, make_whisper_asr, wave, write_manifest

import features.encoders
import mervn.model
from cli.main import COMMANDS, run
from features.encoders import ENCODERS, fourier2vec, hashed_ngrams
from features.encoders.base import load_encoder
from features.encoders.selector import parse_selector
from features.lazy_import import import_target
from features.manifests.field_names import FIELDS
from features.manifests.fields import parse_fields
from features.ragged import Ragged
from features.store.reader import FeatureStore
from mervn.demo import known_answers
from mervn.registry import FUSIONS, LOSSES, POOLINGS, SAMPLINGS

ROOT = Path(__file__).parent.parent
TRANSLATIONS = {"README.vi.md": "README.md", "docs/tutorial.vi.md": "docs/tutorial.md"}
"""Pages in Vietnamese and what they translate; tests/test_site.py checks that their commands are the same."""
WRITTEN = [path for path in sorted((ROOT / "docs").glob("*.md")) if f"docs/{path.name}" not in TRANSLATIONS]
PAGES = [ROOT / "README.md", *WRITTEN]
LINKED = [*PAGES, ROOT / "CONTRIBUTING.md", *(ROOT / name for name in TRANSLATIONS)]
LANGUAGES = ("bash", "python", "toml", "json", "text")
NOT_RUN = {
    ("README.md", "make demo"),
    ("README.md", "mervn extract --audio-encoder whisper=vinai/PhoWhisper-small"),
    ("docs/ablation.md", "mervn ablate fusion.toml --engine ray"),
    ("docs/ablation.md", "mervn ablate search.toml --trials 20"),
    ("docs/demo.md", "make demo"),
    ("docs/demo.md", "python docs/figures/make_result.py demo docs/figures"),
    ("docs/deployment.md", "mervn export runs/first --output bundle --onnx"),
    ("docs/deployment.md", "mervn export runs/first --output bundle --push USER/NAME"),
    ("docs/deployment.md", 'python mervn_onnx.py bundle data/test-0-0000.wav "hôm nay tôi vui lắm"'),
    ("docs/encoders.md", "mervn extract --audio-encoder whisper=vinai/PhoWhisper-small@8"),
    ("docs/encoders.md", "mervn extract --text-encoder phobert --segmenter vncorenlp"),
    ("docs/encoders.md", "mervn extract --text-encoder transformer=Qwen/Qwen2-0.5B@16"),
    ("docs/extraction.md", "mervn extract --engine ray --workers 4"),
    ("docs/extraction.md", "mervn extract --audio-encoder wav2vec2 --shard 3/8"),
    ("docs/finetuning.md", 'accelerate launch --num_processes 4 "$(command -v mervn)" finetune --init-head runs/first'),
    ("docs/installation.md", "# a laptop, CPU only"),
    ("docs/installation.md", "# a machine with an NVIDIA GPU"),
    ("docs/installation.md", "# keep the torch that is installed"),
    ("docs/installation.md", "make setup"),
    ("docs/howto-cluster.md", "sbatch --array=1-8 --gres=gpu:1 --time=4:00:00 --wrap \\"),
    ("docs/howto-cluster.md", "mervn extract --audio-encoder wav2vec2 --engine ray --ray-address HOST:PORT"),
    (
        "docs/howto-cluster.md",
        'accelerate launch --num_processes 4 "$(command -v mervn)" finetune --init-head runs/first',
    ),
    ("docs/howto-cluster.md", "HF_HUB_OFFLINE=1 mervn extract --audio-encoder whisper=/models/whisper-base"),
    ("docs/howto-phobert-wav2vec2.md", "mervn doctor"),
    (
        "docs/howto-phobert-wav2vec2.md",
        "mervn extract --text-encoder phobert --audio-encoder wav2vec2@12 --device cuda --plan",
    ),
    (
        "docs/howto-phobert-wav2vec2.md",
        "mervn train-head --text-encoder phobert --audio-encoder wav2vec2@12 --num-seeds 5 --output runs/xattn",
    ),
    (
        "docs/howto-phobert-wav2vec2.md",
        "mervn finetune --init-head runs/xattn/seed-0 --unfreeze-last 2 --gradient-checkpointing --output runs/tuned",
    ),
    ("docs/import.md", "mervn import iemocap IEMOCAP_full_release --classes 4 --output iemocap"),
    ("docs/recipes.md", "mervn ablate --recipe superb-iemocap --data iemocap --dry-run"),
    ("docs/recipes.md", "mervn ablate --recipe demo --test"),
    ("docs/serving.md", "pip install 'mervn[serve]'"),
    ("docs/tutorial.md", "make setup"),
}
"""Page and first line of each block that no test runs."""
SMALL = """
[train-head]
epochs = 1
dim = 16
mlp = [8]
[finetune]
epochs = 1
workers = 0
unfreeze-last = 1
[pretrain-audio]
epochs = 1
[ablate]
jobs = 1
"""
"""The mervn.toml of the folder: small heads, for the sake of time."""
FOREIGN = {
    "--local-dir",
    "--num_processes", "--multi_gpu", "--index-url", "--system-site-packages", "--array", "--gres", "--time", "--wrap",
}  # fmt: skip
"""Options of other programs that the pages name."""
BUILT_IN = {"--help", "--help-all", "--version", "--config", "--print-config", "--json"}


@dataclass(frozen=True)
class Block:
    """One fenced code block of a page."""

    page: str
    line: int
    comment: str
    language: str
    text: str

    @property
    def first_line(self) -> str:
        return self.text.splitlines()[0]

    @property
    def runs(self) -> bool:
        return not self.comment.startswith("not run: ")

    def file(self, suffix: str) -> str | None:
        """Return the path in the first line of a block that is the content of a file."""
        match = re.fullmatch(rf"# ([\w./-]+{re.escape(suffix)})", self.first_line)
        return match[1] if match else None


def read_blocks(page: Path) -> list[Block]:
    """Return the code blocks of a page, with the HTML comment directly above each."""
    blocks: list[Block] = []
    lines = page.read_text("utf-8").splitlines()
    start = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = number
            continue
        above = re.fullmatch(r"<!-- (.+) -->", lines[start - 1])
        text = "\n".join(lines[start + 1 : number]) + "\n"
        name = page.relative_to(ROOT).as_posix()
        blocks.append(Block(name, start + 1, above[1] if above else "", lines[start][3:], text))
        start = None
    assert start is None, f"{page}: the block of line {start} has no end"
    return blocks


BLOCKS = [block for page in PAGES for block in read_blocks(page)]


def make_corpus(folder: Path) -> None:
    """Write a data folder whose splits have no speaker and no audio in common."""
    folder.mkdir()
    number = 0
    for split, count in {"train": 12, "valid": 6, "test": 4}.items():
        lines = []
        for i in range(count):
            number += 1
            happy = i % 2
            speaker = f"{split}-{i % 5}"
            name = f"{speaker}-{i:04d}"
            soundfile.write(folder / f"{name}.wav", wave(0.2 + 0.02 * (i % 7), number, RATE, 150.0 + 150 * happy), RATE)
            lines.append(
                {
                    "utterance_id": name, "speaker_id": speaker, "wav_path": f"{name}.wav",
                    "transcript": None if i % 9 == 8 else f"hôm nay tôi {('buồn', 'vui')[happy]} lắm",
                    "emotion": ("sad", "happy")[happy],
                }
            )  # fmt: skip
        write_manifest(folder / f"{split}.jsonl", lines)


def mervn_command(*arguments: str) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return run(list(arguments))


@pytest.fixture(scope="module")
def small_defaults() -> Iterator[None]:
    """Give the encoders without pretrained weights small layers: their own have 7 million weights to train and write.

    The number of layers stays, because pages name layers. test_earlier_files and test_encoder_checks use the own sizes.
    """
    audio = {"dim": 32, "heads": 2, "position_kernel": 7, "position_groups": 4}
    with (
        mock.patch.dict(fourier2vec.DEFAULTS, audio),
        mock.patch.dict(hashed_ngrams.DEFAULTS, {"dim": 32, "buckets": 512}),
    ):
        yield


@pytest.fixture(scope="module")
def prepared(small_defaults: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a corpus, two stores and a run; pages work on copies of it."""
    folder = tmp_path_factory.mktemp("docs") / "prepared"
    folder.mkdir()
    make_corpus(folder / "data")
    (folder / "mervn.toml").write_text(SMALL)
    make_whisper_asr(folder / "PhoWhisper-small")
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert mervn_command("extract", "--audio-encoder", "fourier2vec", "--text-encoder", "hashed_ngrams") == 0
        assert mervn_command("train-head", "--output", "runs/first") == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Change to a copy of the prepared folder, in which new modules and registry entries count."""
    copy = tmp_path / "copy"
    shutil.copytree(prepared, copy)
    config = copy / "runs" / "first" / "config.json"
    config.write_text(config.read_text("utf-8").replace(str(prepared), str(copy)), "utf-8")
    monkeypatch.chdir(copy)
    for package in (features.encoders, mervn.model):
        extra = str(copy.joinpath(*package.__name__.split(".")))
        monkeypatch.setattr(package, "__path__", [*package.__path__, extra])
    registries = [*ENCODERS.values(), FUSIONS, POOLINGS, LOSSES]
    patches = [mock.patch.dict(registry) for registry in registries] + [mock.patch.dict(sys.modules)]  # type: ignore[arg-type,list-item]
    for patch in patches:
        patch.start()
    yield copy
    for patch in patches:
        patch.stop()


def run_bash(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    for line in block.text.replace("\\\n", " ").splitlines():
        words: list[str] = []
        for word in shlex.split(line, comments=True):
            words += sorted(map(str, Path().glob(word))) if "*" in word else [word]
        if not words:
            continue
        place = f"{block.page}:{block.line}: {line}"
        capsys.readouterr()
        if words[0] == "mervn":
            code = mervn_command(*words[1:])
            assert code == 0, f"{place}\n{capsys.readouterr()}"
        else:
            path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
            done = subprocess.run(
                ["bash", "-c", line], env={**os.environ, "PATH": path}, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{place}\n{done.stderr}"


def write_file(block: Block, suffix: str) -> bool:
    name = block.file(suffix)
    if name is None:
        return False
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block.text, "utf-8")
    return True


def run_block(block: Block, names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    if block.language == "bash":
        run_bash(block, capsys)
    elif block.language == "python" and not write_file(block, ".py"):
        source = "\n" * block.line + block.text  # an error then names the line of the page
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(compile(source, ROOT / block.page, "exec"), names)
    elif block.language == "toml":
        tomllib.loads(block.text)
        write_file(block, ".toml")
    elif block.language == "json":
        for line in block.text.splitlines():
            json.loads(line)


def run_page(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in BLOCKS:
        if block.page == name and block.runs:
            run_block(block, names, capsys)


ELSEWHERE = ("docs/tutorial.md",)
"""Pages that other tests run: test_site.py runs the tutorial, on a corpus of its own."""


@pytest.mark.parametrize("page", sorted({page.relative_to(ROOT).as_posix() for page in PAGES} - set(ELSEWHERE)))
def test_every_block_of_a_page_runs(page: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_page(page, capsys)


def test_a_wrong_command_and_a_wrong_statement_are_found(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for language, text in (("bash", "mervn evaluate runs/none"), ("bash", "false"), ("python", "assert False")):
        with pytest.raises(AssertionError):
            run_block(Block("README.md", 1, "", language, text + "\n"), {}, capsys)


def test_blocks_that_do_not_run_are_listed_with_a_reason() -> None:
    assert {(block.page, block.first_line) for block in BLOCKS if not block.runs} == NOT_RUN
    for block in BLOCKS:
        assert block.language in LANGUAGES, f"{block.page}:{block.line}: {block.language!r}"
        shown_command = re.search(r"^\s*(mervn|make|pip|accelerate|python) ", block.text, re.MULTILINE)
        assert block.language != "text" or not shown_command, f"{block.page}:{block.line}: a command, so ```bash"


def test_no_page_reads_an_utterance_that_only_the_corpus_of_the_tests_has() -> None:
    named = re.compile(r'"(train|valid|test)-\d-\d{4}"')
    blocks = [block for block in BLOCKS if block.language == "python" and named.search(block.text)]
    assert [f"{block.page}:{block.line}" for block in blocks] == []


def test_pages_that_train_into_the_same_folder_from_python_use_the_same_options() -> None:
    """The README trained `runs/from-python` for 5 epochs and docs/python-api.md for 3, which is an error after it."""
    options: dict[str, set[str]] = {}
    for block in BLOCKS:
        for line in re.findall(r"^options = TrainHeadOptions\(.*", block.text, re.MULTILINE):
            options.setdefault(line.split("output=")[1], set()).add(line)
    assert options and [lines for lines in options.values() if len(lines) > 1] == []


def test_every_option_that_a_page_names_exists() -> None:
    known = BUILT_IN | FOREIGN
    for spec in COMMANDS.values():
        for field in import_target(spec.options).model_fields:
            flag = field.replace("_", "-")
            known |= {f"--{flag}", f"--no-{flag}"}
    for page in PAGES:
        text = page.read_text("utf-8")
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z_-]*[a-z]", text))
        assert named <= known, f"{page.name}: {named - known}"


def test_the_pages_name_every_encoder_fusion_pooling_loss_and_sampling() -> None:
    encoders = (ROOT / "docs" / "encoders.md").read_text("utf-8")
    training = (ROOT / "docs" / "training.md").read_text("utf-8")
    data = (ROOT / "docs" / "data.md").read_text("utf-8")
    for registry in ENCODERS.values():
        assert all(f"`{name}`" in encoders for name in registry)
    for names in (FUSIONS, POOLINGS, LOSSES, SAMPLINGS):
        assert all(f"`{name}`" in training for name in names)
    assert all(f"`{name}`" in data for name in FIELDS)


def test_the_example_lines_of_a_manifest_are_valid() -> None:
    examples = [block for block in BLOCKS if block.language == "json" and '"utterance_id"' in block.text]
    assert examples
    for block in examples:
        for line in block.text.splitlines():
            found = parse_fields(json.loads(line))
            assert not found.faults and not found.similar, f"{block.page}:{block.line}"


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_every_link_between_files_leads_somewhere() -> None:
    for page in LINKED:
        text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
        targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text)
        for target in targets:
            if re.match(r"https?:", target):
                continue
            name, _, anchor = target.partition("#")
            path = (page.parent / name).resolve() if name else page
            assert path.exists(), f"{page.name}: {target}"
            assert not anchor or anchor in anchors(path), f"{page.name}: {target}"


def test_the_readme_is_short_and_links_to_every_page() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 180
    for page in PAGES[1:]:
        assert f"](docs/{page.name})" in text, page.name


def tree(page: Path) -> list[str]:
    """Return the paths of the tree that a page shows: folders end with a slash, two spaces are a level."""
    (block,) = [block for block in read_blocks(page) if block.language == "text" and "features/" in block.first_line]
    paths: list[str] = []
    above: list[str] = []
    for line in block.text.splitlines():
        entry = re.match(r"( *)([\w.-]+/?)(?:  |$)", line)
        assert entry is not None, f"{page.name}: {line!r} is not an entry of the tree"
        level = len(entry[1]) // 2
        above[level:] = [entry[2]]
        paths.append("".join(above))
    return paths


def modules(*folders: str) -> set[str]:
    """Return the Python files of some folders, without the __init__.py that hold no more than a docstring."""
    found = {path.relative_to(ROOT) for name in folders for path in (ROOT / name).rglob("*.py")}
    return {path.as_posix() for path in found if path.name != "__init__.py" or path.parent.name == "encoders"}


def folders() -> set[str]:
    rooms = modules("features", "mervn", "cli")
    return {f"{Path(path).parent}/" for path in rooms} | {"features/", "mervn/", "tests/", "benchmarks/", "docs/"}


def test_the_tree_of_the_file_list_shows_every_module_and_no_other() -> None:
    paths = tree(ROOT / "docs" / "files.md")
    assert len(paths) == len(set(paths))
    shown = {path for path in paths if path.endswith(".py")}
    assert shown == modules("features", "mervn", "cli", "benchmarks") | {"tests/tiny.py"}
    assert {path for path in paths if path.endswith("/")} == folders()


def test_the_tree_of_the_readme_shows_every_folder_and_some_files() -> None:
    paths = tree(ROOT / "README.md")
    shown = {path for path in paths if path.endswith(".py")}
    assert set(paths) - shown == folders()
    assert shown <= modules("features", "mervn", "cli")


def test_the_figure_of_the_readme_is_drawn_from_the_metrics_of_a_demo(tmp_path: Path) -> None:
    path = ROOT / "docs" / "figures" / "make_result.py"
    spec = importlib.util.spec_from_file_location("make_result", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for label_set in known_answers.SETS:
        for fusion in known_answers.FUSIONS:
            run_folder = tmp_path / "runs" / f"{label_set}-{fusion}-seed0"
            run_folder.mkdir(parents=True)
            (run_folder / "metrics-test.json").write_text('{"test": {"macro_f1": 0.625}}')
    module.main(tmp_path, tmp_path)
    for theme in ("light", "dark"):
        drawn = (tmp_path / f"demo-{theme}.svg").read_text("utf-8")
        assert drawn.count(">0.625<") == len(known_answers.SETS) * len(known_answers.FUSIONS)
        ET.fromstring(drawn)
        kept = (ROOT / "docs" / "figures" / f"demo-{theme}.svg").read_text("utf-8")
        assert re.sub(r"[\d.]+", "", kept) == re.sub(r"[\d.]+", "", drawn)


def test_the_encoder_of_the_recipe_fills_a_store_and_gives_the_frames_that_numpy_gives(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_page("docs/adding-an-encoder.md", capsys)
    (store,) = (folder / "data" / "stores" / "audio").glob("loudness.py-Loudness-*")
    assert store.name.startswith("loudness.py-Loudness-random-Llast-")
    assert len(FeatureStore(store)) == 22
    encoder = load_encoder(parse_selector("loudness.py:Loudness", "audio"))
    weight, bias = (tensor.double().numpy() for tensor in encoder.state_dict().values())
    samples = [wave(n / 16_000, n) for n in (1, 319, 320, 321, 5000)]
    together = encoder(Ragged.from_sequences(list(map(encoder.prepare, samples))))
    assert together.lengths.tolist() == [1, 1, 1, 2, 16]
    for found, raw in zip(together.split(), samples, strict=True):
        frames = np.pad(raw.astype(np.float64), (0, -len(raw) % 320)).reshape(-1, 320)
        expected = np.log((frames**2).mean(1, keepdims=True) + 1e-6) @ weight.T + bias
        np.testing.assert_allclose(found.detach().numpy(), expected, atol=2e-5)
