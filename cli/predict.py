"""`mervn predict`."""

from __future__ import annotations

from pathlib import Path

from cli.options import command
from cli.output import Output
from features.errors import MAX_NAMED
from mervn.use.predict_options import PredictOptions


@command("predict", argument=("run", "paths"), several=True, optional=True)
def predict_command(run: Path, paths: tuple[Path, ...], options: PredictOptions, output: Output) -> int:
    """Predict the emotion of audio files, folders, manifests or segments with RUN.

    RUN is a run of train-head or finetune, or a bundle. A file that cannot be decoded is listed, the others
    are predicted, and the exit code is 1.
    """
    from mervn.use.predict import count_reasons, predict
    from mervn.use.recognizer import ranked

    found = predict(run, paths, options, output)
    if options.output is None:
        lines = []
        for one in found.predictions:
            times = ("", "") if not one.seconds else (f"{one.clip.start:.2f}", f"{one.end:.2f}")
            if one.probabilities is not None:
                best = ranked(found.labels, one.probabilities)[0]
                lines.append((one.clip.file or "(text)", *times, best["label"], f"{best['score']:.4f}"))
        if lines:
            output.table(("file", "start", "end", "prediction", "probability"), lines)
    failed = found.failed
    for one in failed[:MAX_NAMED]:
        output.say(f"error: {one.fault}")
    if failed:
        more = f", of which {MAX_NAMED} are named above" if len(failed) > MAX_NAMED else ""
        reasons = ", ".join(f"{reason}: {count}" for reason, count in count_reasons(failed).items())
        output.say(f"{len(failed)} of {len(found.predictions)} inputs cannot be used{more} ({reasons})")
    document = {"run": str(run), "labels": list(found.labels), "failed": len(failed)}
    if options.output is None:
        document["predictions"] = [one.as_json(found.labels) for one in found.predictions]
    else:
        document |= {"predictions": len(found.predictions), "output": str(options.output)}
        output.result(f"results are in {options.output}")
    if found.page is not None:
        document["page"] = str(found.page)
        output.result(f"the page is {found.page}")
    output.document(document)
    return 1 if failed else 0
