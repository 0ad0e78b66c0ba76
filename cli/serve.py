"""`mervn serve`."""

from __future__ import annotations

from pathlib import Path

from cli.options import command
from cli.output import Output
from mervn.serving.serve_options import ServeOptions


@command("serve", argument="run")
def serve_command(run: Path, options: ServeOptions, output: Output) -> None:
    """Serve RUN as a web page: record or choose audio, type what is said, see probabilities and why.

    RUN is a run of train-head or finetune, or a bundle. The page can be opened on this machine only, unless
    --host says otherwise. Nothing that visitors send is kept. Ctrl-C ends it.
    """
    from mervn.serving.serve import serve

    def started(url: str) -> None:
        output.result(f"{run} is served at {url} (Ctrl-C ends it)")
        output.document({"run": str(run), "url": url})

    serve(run, options, output, started)
