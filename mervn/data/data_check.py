"""Quick check of the data of a training: printed, and no part of the run's identity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

from features.audit.check import Check, quick_check
from features.command_lines import features_folder
from features.counts import counted
from features.manifests.manifest import Utterance
from features.progress import Reporter


def check_training_data(
    utterances: Mapping[str, Sequence[Utterance]], data: Path, features_dir: Path | None, reporter: Reporter
) -> Check | None:
    """Check the utterances of train and valid, by split, and print errors and warnings.

    No audio is opened: facts of the audio are those that `mervn check` keeps in the features folder
    of `data`, which is `features_dir` if given. Findings never stop a training. A fault of the
    check itself does not either: it gives None.
    """
    try:
        found = quick_check(list(chain.from_iterable(utterances.values())), features_folder(features_dir, data))
    except Exception as error:  # whatever goes wrong here, the training can still be right
        reporter.say(f"the data could not be checked, training continues: {type(error).__name__}: {error}")
        return None
    lines = []
    for finding in found.findings:
        if finding.severity != "info":
            lines.append(f"  {finding.severity}: {finding.id}: {finding.message}")
    if lines:
        head = f"the data of this training has {counted(len(lines), 'fault')}; `mervn check` explains them:"
        reporter.say("\n".join([head, *lines]))
    return found
