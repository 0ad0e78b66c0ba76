"""The commands of `mervn`: a literal table, so that `--help` imports none of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CommandSpec:
    """Description of a command that is not imported yet."""

    target: str
    """`module:name` of the click command."""
    options: str
    """`module:Class` of its option model."""
    help: str


COMMANDS: dict[str, CommandSpec] = {
    "ablate": CommandSpec(
        "cli.ablate:ablate_command", "mervn.config:AblateOptions", "Train a grid of heads and compare them in tables."
    ),
    "check": CommandSpec(
        "cli.check:check",
        "features.audit.options:CheckOptions",
        "Find faults and shortcuts in a corpus and its splits.",
    ),
    "demo": CommandSpec(
        "cli.demo:demo",
        "mervn.config:DemoOptions",
        "Make a corpus, extract it, train on it and check known answers, offline.",
    ),
    "doctor": CommandSpec(
        "cli.doctor:doctor",
        "features.config:DoctorOptions",
        "Check the installation and explain how to fix problems.",
    ),
    "encoders": CommandSpec(
        "cli.encoders:encoders",
        "features.config:EncodersOptions",
        "List the encoders: model, width, frame rate, layers, licence.",
    ),
    "extract": CommandSpec(
        "cli.extract:extract", "features.config:ExtractOptions", "Run frozen encoders once and store their features."
    ),
    "import": CommandSpec(
        "cli.import_corpus:import_command",
        "features.corpora.options:ImportOptions",
        "Write the manifests of a published corpus, and report its known faults.",
    ),
    "layers": CommandSpec(
        "cli.layers:layers", "features.config:LayersOptions", "Find the best layer of an encoder with a linear probe."
    ),
    "pretrain-audio": CommandSpec(
        "cli.pretrain_audio:pretrain_audio",
        "mervn.config:PretrainOptions",
        "Pretrain fourier2vec on the audio of train, without labels.",
    ),
    "split": CommandSpec(
        "cli.split:split_command",
        "features.splitting.options:SplitOptions",
        "Split a manifest by speaker into train, valid and test, or into folds.",
    ),
    "store list": CommandSpec(
        "cli.store:list_", "features.config:StoreListOptions", "List the stores of a features folder."
    ),
    "store import": CommandSpec(
        "cli.store_import:store_import",
        "features.extraction.import_options:StoreImportOptions",
        "Import features of another program as a store.",
    ),
    "store info": CommandSpec(
        "cli.store:info",
        "features.config:StoreInfoOptions",
        "Show the content of a store and what it was extracted from.",
    ),
    "store verify": CommandSpec(
        "cli.store:verify", "features.config:StoreVerifyOptions", "Check a store against its checksums."
    ),
    "store compact": CommandSpec(
        "cli.store:compact", "features.config:StoreCompactOptions", "Merge small parts and remove replaced features."
    ),
    "store convert": CommandSpec(
        "cli.store:convert", "features.config:StoreConvertOptions", "Convert a store to HDF5 or Zarr."
    ),
    "store rm": CommandSpec("cli.store:remove", "features.config:StoreRemoveOptions", "Remove a store."),
    "transcribe": CommandSpec(
        "cli.transcribe:transcribe_command",
        "mervn.transcription.transcribe_options:TranscribeOptions",
        "Transcribe a corpus with Whisper or PhoWhisper into new manifests.",
    ),
    "train-head": CommandSpec(
        "cli.train_head:train_head_command", "mervn.config:TrainHeadOptions", "Train a fusion head on stored features."
    ),
    "finetune": CommandSpec(
        "cli.finetune:finetune_command", "mervn.config:FinetuneOptions", "Train encoders and head end to end."
    ),
    "check-module": CommandSpec(
        "cli.check_module:check_module_command",
        "mervn.config:CheckModuleOptions",
        "Check a custom fusion, pooling or loss.",
    ),
    "evaluate": CommandSpec(
        "cli.evaluate:evaluate_command",
        "mervn.config:EvaluateOptions",
        "Evaluate a trained run, or a series of seeds or folds, on a split.",
    ),
    "compare": CommandSpec(
        "cli.compare:compare_command",
        "mervn.config:CompareOptions",
        "Compare the saved predictions of two runs or series.",
    ),
    "ensemble": CommandSpec(
        "cli.ensemble:ensemble_command",
        "mervn.config:EnsembleOptions",
        "Score the mean of the probabilities of several runs.",
    ),
    "predict": CommandSpec(
        "cli.predict:predict_command",
        "mervn.use.predict_options:PredictOptions",
        "Predict the emotion of audio files, folders, manifests or segments.",
    ),
    "export": CommandSpec(
        "cli.export:export_command",
        "mervn.use.export_options:ExportOptions",
        "Write a run with its encoders as one folder for use elsewhere.",
    ),
    "report": CommandSpec(
        "cli.report:report_command",
        "mervn.config:ReportOptions",
        "Write the report of a run, comparison, study or check.",
    ),
    "serve": CommandSpec(
        "cli.serve:serve_command",
        "mervn.serving.serve_options:ServeOptions",
        "Serve a trained model as a web page on this machine.",
    ),
}
