"""What the server of warm processes imports before it forks."""
# ruff: noqa: E402, F401

import gc

gc.disable()  # until all is imported

from features.audio.torchaudio_import import import_torchaudio

import_torchaudio()  # before transformers: see there

import accelerate
import sklearn.metrics
import torch.distributed
import transformers.models.bert.modeling_bert
import transformers.models.wav2vec2.modeling_wav2vec2
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

import cli.main
import cli.run_report
import features.extraction.extract
import mervn.evaluation.evaluate
import mervn.finetuning.finetune
import mervn.study.ablate
import mervn.training.train_head

cli.run_report.write = lambda run: run / "report.html"  # as conftest does: its figures take longer than a tiny run
get_checkpoint_conversion_mapping("")  # compiles patterns for all models, for half a second
gc.collect()
gc.freeze()  # or each fork would copy all of it in its first garbage collection, a third of a second
gc.enable()
