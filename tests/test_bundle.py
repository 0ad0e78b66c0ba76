"""A bundle alone gives the numbers of evaluate, and is refused if anything in it or around it has changed."""

import importlib.metadata
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_finetune import tune
from test_hub import FIRST, SECOND, cache, put_in_cache
from test_train_head import made, train
from tiny import Messages, make_phobert, make_whisper, read_jsonl

from cli.main import run as mervn
from features.config import SPLITS
from features.encoders.finetuned import read_fine_tuning
from features.encoders.selector import parse_selector
from features.errors import InputError, UsageError
from features.extraction.extract import extract_stream
from features.extraction.settings import ExtractSettings
from features.manifests.manifest import read_manifests
from features.progress import SILENT
from features.text.segmenters import segmenter_sha256
from mervn.config import EvaluateOptions
from mervn.evaluation.evaluate import evaluate
from mervn.run_folder import METRICS_FILE, read_config
from mervn.use import bundle_encoders
from mervn.use.bundle import BundleSettings, read_bundle, replace_paths, write_bundle
from mervn.use.bundle_files import BUNDLE_FILE, CARD_FILE, describe_file
from mervn.use.canary import AUDIO_FILE
from mervn.use.recognizer import EmotionRecognizer

__all__ = ["cache", "made"]  # fixtures
Captured = pytest.CaptureFixture[str]
SCALE = """
import torch
from torch import nn

from features.ragged import Ragged


class Scaled(nn.Module):
    dim = 4

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 4)

    def get_feat_lengths(self, n):
        return -(-n // 400)

    def forward(self, inputs):
        parts = []
        for wave in inputs.split():
            padded = torch.nn.functional.pad(wave, (0, -len(wave) % 400)).reshape(-1, 400)
            parts.append(self.linear(padded.abs().mean(1, keepdim=True)))
        return Ragged.from_sequences(parts)
"""


@pytest.fixture(scope="module")
def head(made: Path) -> Path:
    """A head on frozen encoders that has scored test."""
    run = train(made, made.parent / "head", pooling="attn").path
    evaluate(run, EvaluateOptions(split="test", device="cpu"))
    return run


@pytest.fixture(scope="module")
def exported(head: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, in another folder than the run, its data and its encoders."""
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    assert write_bundle(head, folder).difference <= 1e-5
    return folder


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


def extract(data: Path, selector: str, modality: str) -> None:
    manifests = read_manifests(data, SPLITS)
    settings = ExtractSettings(data / "stores", device="cpu")
    extract_stream(list(manifests.all_utterances()), parse_selector(selector, modality), settings, SILENT)


def scores_of(folder: Path, data: Path) -> np.ndarray[Any, Any]:
    """Return the probabilities of every test utterance, each predicted alone."""
    recognizer = EmotionRecognizer.from_pretrained(str(folder), device="cpu")
    found = []
    for entry in read_jsonl(data / "test.jsonl"):
        scores = recognizer(data / entry["wav_path"], entry["transcript"])
        by_label = {one["label"]: one["score"] for one in scores}  # type: ignore[index,call-overload]
        found.append([by_label[label] for label in recognizer.labels])
    return np.array(found)


def evaluated(run: Path) -> np.ndarray[Any, Any]:
    entries = read_jsonl(run / "predictions-test.jsonl")
    return np.array([list(entry["probabilities"].values()) for entry in entries])


def rehash(bundle: Path, *names: str) -> None:
    """Record the present content of files in bundle.json, as somebody would who hides a change."""
    path = bundle / BUNDLE_FILE
    document = json.loads(path.read_text())
    document["files"] |= {name: describe_file(bundle / name) for name in names}
    path.write_text(json.dumps(document))


def change_one_weight(file: Path, amount: float = 0.5) -> None:
    """Change the last entry of the last tensor."""
    tensors = load_file(file)
    name = sorted(tensors)[-1]
    tensors[name].view(-1)[-1] += amount
    save_file(tensors, file)


def test_a_bundle_alone_gives_the_numbers_of_evaluate(
    head: Path, bundle: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "only-audio"
    data.mkdir()
    for file in made.glob("test*"):
        shutil.copyfile(file, data / file.name)
    hidden = made.parent.with_name("hidden")  # the run, the stores, the data and the encoders are gone
    made.parent.rename(hidden)
    try:
        found = scores_of(bundle, data)
    finally:
        hidden.rename(made.parent)
    assert found == pytest.approx(evaluated(head), abs=1e-5)
    assert np.ptp(found, axis=0).max() > 1e-3


def test_a_bundle_of_fine_tuned_encoders_gives_the_numbers_of_evaluate(head: Path, made: Path, tmp_path: Path) -> None:
    run = tune(head, tmp_path / "tuned").path
    evaluate(run, EvaluateOptions(split="test", device="cpu"))
    result = write_bundle(run, tmp_path / "bundle")
    moved = result.path.rename(tmp_path / "moved")
    shutil.move(run / "encoders", tmp_path / "elsewhere")
    assert scores_of(moved, made) == pytest.approx(evaluated(run), abs=1e-5)
    record = read_fine_tuning(moved / "encoders" / "audio")
    assert record is not None and len(record.seen) == 24
    change_one_weight(moved / "encoders" / "audio" / "model.safetensors")
    rehash(moved, "encoders/audio/model.safetensors")
    with pytest.raises(InputError, match="audio encoder .* must be the one that was exported.*\n  weights_sha256"):
        read_bundle(moved, "cpu")


def test_the_folder_names_no_path_of_this_machine_and_keeps_the_hash(head: Path, exported: Path) -> None:
    text = {path.name: path.read_text("utf-8") for path in exported.rglob("*") if path.suffix in (".json", ".md")}
    assert {"bundle.json", "config.json", "README.md", "canary.json", "metrics-test.json"} <= text.keys()
    assert [name for name, content in text.items() if str(head.parent.parent) in content] == []
    assert read_config(exported).hash == read_config(head).hash
    assert replace_paths(read_config(exported)) == read_config(exported)


FILES = (
    "model.safetensors",
    "encoders/audio/model.safetensors",
    "encoders/text/config.json",
    "canary.wav",
    "config.json",
)


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_names_the_file(bundle: Path, name: str) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[-1] ^= 1
    (bundle / name).write_bytes(bytes(content))
    with pytest.raises(InputError, match=rf"must be those that were exported, but {name} has another content"):
        read_bundle(bundle, "cpu")
    (bundle / name).unlink()
    with pytest.raises(InputError, match=f"{name} is missing"):
        read_bundle(bundle, "cpu")


def test_files_that_could_change_what_is_loaded_are_refused_and_others_are_not(bundle: Path) -> None:
    (bundle / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    (bundle / CARD_FILE).write_text("# completed by hand\n")
    assert read_bundle(bundle, "cpu").labels == ("happy", "sad")
    (bundle / "encoders" / "text" / "tuned.json").write_text("{}")
    with pytest.raises(InputError, match=r"encoders/text/tuned\.json is not listed in bundle\.json"):
        read_bundle(bundle, "cpu")


def test_one_changed_weight_is_found_even_if_its_hash_is_changed_too(bundle: Path) -> None:
    change_one_weight(bundle / "encoders" / "text" / "model.safetensors")
    rehash(bundle, "encoders/text/model.safetensors")
    with pytest.raises(InputError, match=r"text encoder of the bundle .*\n  weights_sha256: '"):
        read_bundle(bundle, "cpu")


def test_the_canary_finds_another_head_another_audio_and_another_computation(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from features.encoders.hashed_ngrams import HashedNgrams

    with monkeypatch.context() as patch:
        prepare = HashedNgrams.prepare
        patch.setattr(HashedNgrams, "prepare", lambda self, raw: prepare(self, raw.lower().replace(",", "")))
        with pytest.raises(InputError, match="its input differs: the tokenizer or segmenter has changed"):
            read_bundle(bundle, "cpu")
    with monkeypatch.context() as patch:
        forward = HashedNgrams.forward_layers
        patch.setattr(
            HashedNgrams,
            "forward_layers",
            lambda self, x: [y.map(lambda v: v + 0.05 * v.roll(1, -1)) for y in forward(self, x)],
        )
        with pytest.raises(
            InputError, match="those of its canary .* differ by .*versions of the packages are the same"
        ):
            read_bundle(bundle, "cpu")
    change_one_weight(bundle / "model.safetensors")
    rehash(bundle, "model.safetensors")
    with pytest.raises(InputError, match=r"must give the probabilities that it was exported with.*canary \("):
        read_bundle(bundle, "cpu")


def spoil_canary(bundle: Path) -> None:
    (bundle / AUDIO_FILE).write_bytes(b"no audio")
    rehash(bundle, AUDIO_FILE)


def spoil(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Return a function that changes bundle.json."""

    def apply(bundle: Path) -> None:
        document = json.loads((bundle / BUNDLE_FILE).read_text())
        change(document)
        (bundle / BUNDLE_FILE).write_text(json.dumps(document))

    return apply


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (spoil(lambda d: d.update(format=2)), "must have format 1, found 2"),
        (spoil(lambda d: d.pop("encoders")), "must describe a bundle, but cannot be read"),
        (spoil(lambda d: d["files"].update({"../x": {"size": 1, "sha256": ""}})), "files must be within the bundle"),
        (spoil(lambda d: d["files"].pop("model.safetensors")), "files must list model.safetensors"),
        (spoil(lambda d: d.update(run_hash="00000000")), "must describe the run of config.json"),
        (spoil(lambda d: d["encoders"]["text"].update(name="nothing")), "must be an encoder of this version"),
        (spoil(lambda d: d["encoders"]["text"].update(model="/etc")), "a path must lead to a file of the bundle"),
        (spoil(lambda d: d["encoders"]["audio"].update(numerics_version=99)), "numerics_version: 99 in the bundle"),
        (spoil(lambda d: d["encoders"]["audio"].update(segmenter_sha256="0")), "segmenter_sha256: '0' in the bundle"),
        (spoil_canary, r"canary\.wav must be the audio of the canary, found: Error opening"),
        (lambda bundle: (bundle / BUNDLE_FILE).write_text("{"), "must hold the description of a bundle"),
        (lambda bundle: (bundle / BUNDLE_FILE).unlink(), "must be a bundle that `mervn export` wrote"),
    ],
)
def test_a_damaged_description_is_one_error(bundle: Path, change: Callable[[Path], Any], message: str) -> None:
    change(bundle)
    with pytest.raises(InputError, match=message):
        read_bundle(bundle, "cpu")


def test_only_a_bundle_of_the_same_run_is_replaced(head: Path, bundle: Path, made: Path, tmp_path: Path) -> None:
    write_bundle(head, bundle)
    (bundle / CARD_FILE).write_text("# by hand\n")
    with pytest.raises(UsageError, match=r"README\.md was edited and would be lost"):
        write_bundle(head, bundle)
    (bundle / CARD_FILE).unlink()
    (bundle / ".git").mkdir()
    with pytest.raises(UsageError, match=r"also holds \.git, which would be lost"):
        write_bundle(head, bundle)
    (bundle / ".git").rmdir()
    other = train(made, tmp_path / "other", pooling="attn", seed=1, epochs=1).path
    with pytest.raises(UsageError, match="holds the bundle of another run"):
        write_bundle(other, bundle)
    with pytest.raises(UsageError, match="is not empty and holds no bundle"):
        write_bundle(head, other)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="must name a folder for the bundle"):
        write_bundle(head, tmp_path / "file")
    with pytest.raises(UsageError, match="must be in a folder that can be created, found .*file/bundle"):
        write_bundle(head, tmp_path / "file/bundle")
    with pytest.raises(UsageError, match=r"--features-dir must be the folder of the feature stores, but .*nowhere"):
        write_bundle(head, tmp_path / "third", BundleSettings(features_dir=tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="is a bundle already"):
        write_bundle(bundle, tmp_path / "second")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "file", "other"]  # no temporary folders


def test_a_failure_leaves_no_folder(head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mervn.use.bundle.write_canary", fail)
    with pytest.raises(OSError, match="No space left"):
        write_bundle(head, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_damaged_results_are_one_error(head: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(head, tmp_path / "run"))
    (run / "check.json").write_text('{"findings": [{"id": "few_speakers"}]}')
    with pytest.raises(InputError, match="must hold results as training, check and evaluation write them.*severity"):
        write_bundle(run, tmp_path / "bundle")
    (run / METRICS_FILE).write_text("{}")
    with pytest.raises(InputError, match=r"metrics\.json must hold the results of a run, found no features"):
        write_bundle(run, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_results_of_other_weights_are_left_out(head: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(head, tmp_path / "run"))
    document = json.loads((run / "metrics-test.json").read_text())
    (run / "metrics-test.json").write_text(json.dumps({**document, "model_sha256": "0"}))
    folder = write_bundle(run, tmp_path / "bundle").path
    assert not (folder / "metrics-test.json").exists()
    assert "was not scored on test" in (folder / CARD_FILE).read_text()


def test_a_word_segmenter_and_a_tokenizer_must_be_those_of_the_export(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phobert = make_phobert(tmp_path / "phobert")
    data = Path(shutil.copytree(made, tmp_path / "data", copy_function=shutil.copy2))
    extract(data, f"phobert={phobert}@1", "text")
    run = train(data, tmp_path / "run", fusion="text", pooling="cls", text_encoder="phobert", epochs=1).path
    bundle = write_bundle(run, tmp_path / "bundle").path
    shutil.rmtree(phobert)
    assert read_bundle(bundle, "cpu").modalities == ("text",)
    with monkeypatch.context() as patch:
        patch.setattr(bundle_encoders, "segmenter_sha256", lambda name: f"another {name}")
        with pytest.raises(InputError, match=r"segmenter_sha256: '[0-9a-f]{64}' in the bundle, 'another pyvi' here"):
            read_bundle(bundle, "cpu")
    vocabulary = bundle / "encoders" / "text" / "vocab.txt"
    lines = vocabulary.read_text("utf-8").splitlines()
    lines[2], lines[3] = lines[3], lines[2]
    vocabulary.write_text("\n".join(lines) + "\n", "utf-8")
    rehash(bundle, "encoders/text/vocab.txt")
    with pytest.raises(InputError, match="config.tokenizer_sha256"):
        read_bundle(bundle, "cpu")


def test_the_hash_of_a_segmenter_changes_with_one_entry_of_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, record = tmp_path / "pyvi", tmp_path / "pyvi-9.9.dist-info"
    package.mkdir()
    record.mkdir()
    (package / "words.txt").write_text("sinh viên\n")
    (package / "code.so").write_text("compiled")
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: pyvi\nVersion: 9.9\n")
    (record / "RECORD").write_text("pyvi/words.txt,,\npyvi/code.so,,\npyvi-9.9.dist-info/METADATA,,\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert importlib.metadata.version("pyvi") == "9.9"
    before = segmenter_sha256("pyvi")
    (package / "code.so").write_text("compiled elsewhere")
    assert segmenter_sha256("pyvi") == before
    (package / "words.txt").write_text("sinh viêm\n")
    assert segmenter_sha256("pyvi") != before and segmenter_sha256("none") is None


def test_custom_encoders_are_copied_and_run_only_if_trusted(made: Path, tmp_path: Path, capsys: Captured) -> None:
    code = tmp_path / "scaled.py"
    code.write_text(SCALE)
    data = Path(shutil.copytree(made, tmp_path / "data", copy_function=shutil.copy2))
    extract(data, f"{code}:Scaled", "audio")
    run = train(data, tmp_path / "run", fusion="audio", pooling="mean", audio_encoder=f"{code}:Scaled", epochs=1).path
    evaluate(run, EvaluateOptions(split="test", device="cpu"))
    assert mervn(["export", str(run), "--output", str(tmp_path / "bundle")]) == 2
    assert "Review it, then pass --trust-code" in capsys.readouterr().err
    assert mervn(["export", str(run), "--output", str(tmp_path / "bundle"), "--trust-code"]) == 0
    code.unlink()
    shutil.rmtree(data / "stores")
    with pytest.raises(UsageError, match="contains custom code, .*scaled.py:Scaled. Review it"):
        read_bundle(tmp_path / "bundle", "cpu")
    recognizer = EmotionRecognizer.from_pretrained(tmp_path / "bundle", device="cpu", trust_code=True)
    (first, *_) = read_jsonl(data / "test.jsonl")
    scores = {one["label"]: one["score"] for one in recognizer(data / first["wav_path"])}  # type: ignore[index,call-overload]
    assert [scores[label] for label in recognizer.labels] == pytest.approx(evaluated(run)[0], abs=1e-5)


def test_encoders_that_are_not_from_the_hub_are_copied_despite_link_encoders(head: Path, tmp_path: Path) -> None:
    reporter = Messages()
    folder = write_bundle(head, tmp_path / "bundle", BundleSettings(link_encoders=True), reporter).path
    assert sum("is not from the hub, so it is copied" in line for line in reporter.said) == 2
    assert (folder / "encoders" / "audio" / "model.safetensors").is_file()


def test_a_linked_encoder_is_loaded_from_the_hub_in_the_recorded_revision(
    made: Path,
    tmp_path: Path,
    cache: Path,
) -> None:
    put_in_cache(cache, "lab/voice", make_whisper(tmp_path / "one"), FIRST, "main")
    data = Path(shutil.copytree(made, tmp_path / "data", copy_function=shutil.copy2))
    extract(data, "whisper=lab/voice", "audio")
    run = train(data, tmp_path / "run", fusion="audio", pooling="mean", audio_encoder="whisper", epochs=1).path
    evaluate(run, EvaluateOptions(split="test", device="cpu"))
    bundle = write_bundle(run, tmp_path / "bundle", BundleSettings(link_encoders=True)).path
    assert not list(bundle.rglob("encoders/audio/*.safetensors"))
    shutil.rmtree(data / "stores")
    put_in_cache(cache, "lab/voice", make_whisper(tmp_path / "two", seed=1), SECOND, "main")  # the hub moved on
    assert scores_of(bundle, data) == pytest.approx(evaluated(run), abs=1e-5)
    shutil.rmtree(cache / "models--lab--voice" / "snapshots" / FIRST)
    with pytest.raises(InputError, match="lab/voice"):
        read_bundle(bundle, "cpu")


def test_a_loaded_bundle_is_saved_again_byte_for_byte(bundle: Path, head: Path, tmp_path: Path) -> None:
    (bundle / CARD_FILE).write_text("# completed\n")
    recognizer = EmotionRecognizer.from_pretrained(bundle, device="cpu")
    recognizer.save_pretrained(tmp_path / "again")
    for path in bundle.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "again" / path.relative_to(bundle)).read_bytes()
    EmotionRecognizer.from_pretrained(head, device="cpu").save_pretrained(tmp_path / "from-run")
    assert read_bundle(tmp_path / "from-run", "cpu").weights_sha256 == recognizer.model.weights_sha256


def test_the_command_prints_what_it_checked(head: Path, tmp_path: Path, capsys: Captured) -> None:
    folder = tmp_path / "bundle"
    assert mervn(["export", str(head), "--output", str(folder), "--json"]) == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out.splitlines()[-1])
    assert document["canary_difference"] <= 1e-5 and document["bytes"] > 1000 and document["onnx"] is None
    assert "canary: the bundle gives the probabilities of the run" in printed.err
    assert mervn(["export", str(head)]) == 2
    assert "--output must name the folder for the bundle" in capsys.readouterr().err
    assert mervn(["export", str(tmp_path), "--output", str(tmp_path / "x")]) == 2
    assert torch.get_num_threads() == 1
