"""`mervn demo`."""

from __future__ import annotations

import time

from cli.options import command
from cli.output import Output
from features.cpu_threads import set_threads
from mervn.config import DemoOptions


@command("demo")
def demo(options: DemoOptions, output: Output) -> int:
    """Make a Vietnamese speech corpus, extract it, train on it and check known answers.

    It works offline. The corpus has four label sets over the same audio. The label depends on the
    prosody (audio), on the words (text), on both together (both), or on nothing (none). The exit
    code is 1 if a known answer is missed.
    """
    from mervn.demo.corpus import make_corpus

    set_threads(options.threads)
    started = time.perf_counter()
    corpus = make_corpus(options.output, options.seed)
    counts = ", ".join(f"{count} {split}" for split, count in corpus.utterances.items())
    verb = "kept" if corpus.reused else f"made in {corpus.seconds:.0f} s"
    output.say(f"corpus: {counts} utterances, {60 * corpus.hours:.0f} minutes of speech, {verb}")
    if options.corpus_only:
        output.result(f"{options.output}: four label sets, each with train.jsonl, valid.jsonl and test.jsonl")
        output.document({"output": str(options.output)})
        return 0

    from mervn.demo.known_answers import ANSWERS, FUSIONS, SETS, extract_demo, train_and_score

    extract_demo(options.output, output)
    result = train_and_score(options.output, options.seed, output)
    output.result(f"test macro-F1, {result.n_test} utterances (seed {options.seed}, chance 0.50):")
    rows = []
    for fusion in FUSIONS:
        scores = [f"{result.macro_f1[label_set][fusion]:.3f}" for label_set in SETS]
        rows.append((fusion, *scores))
    output.table(("fusion", *map("{} set".format, SETS)), rows)
    for answer in result.missed:
        output.result(f"missed: {answer}")
    verdict = "all known answers hold" if result.met else f"{len(result.missed)} of {len(ANSWERS)} known answers missed"
    output.result(f"{verdict}; {time.perf_counter() - started:.0f} s; everything is in {options.output}")
    output.document({"macro_f1": result.macro_f1, "n_test": result.n_test, "met": result.met, "missed": result.missed})
    return 0 if result.met else 1
