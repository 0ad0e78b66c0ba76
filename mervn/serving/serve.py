"""`mervn serve`: a web page for a trained model, for this machine unless told otherwise."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from features.audio.resampling import Samples
from features.cpu_threads import set_threads
from features.errors import UsageError
from features.progress import Reporter
from mervn.serving.answers import Answers, Transcriber
from mervn.serving.serve_options import ServeOptions
from mervn.serving.uploads import Uploads, private_uploads
from mervn.use.model_facts import read_facts
from mervn.use.recognizer import EmotionRecognizer

GRACE_S = 2
"""Seconds that open connections get when the server ends."""
NO_STATISTICS = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_ANALYTICS_MAX_EVENTS": "1",
    "GRADIO_ANALYTICS_CACHE_FREQUENCY": str(2**62),
}
"""Environment variables with which gradio reports nothing and keeps no statistics of requests."""
OPEN_TO_OTHERS = (
    "every machine that can reach this one can use the page, without a password. Browsers give it a microphone only "
    "over HTTPS: put a proxy before it"
)


def serve(path: Path, options: ServeOptions, reporter: Reporter, started: Callable[[str], None]) -> None:
    """Serve a run or bundle until Ctrl-C or SIGTERM; `started` gets the address of the page.

    Raises UsageError without gradio, or for a host or port that cannot be used, and the errors of
    `open_run_model`.
    """
    require_gradio()
    set_threads(options.threads)
    with closing(listen(options.host, options.port)) as listener, private_uploads() as uploads:
        server = prepare(path, options, uploads, reporter)
        if not is_loopback(listener):
            reporter.say(f"warning: {OPEN_TO_OTHERS}")
        started(address(listener))
        with suppress(KeyboardInterrupt):  # uvicorn closes the connections, then passes the signal on
            server.run(sockets=[listener])
    reporter.say("stopped; uploads are deleted")


def prepare(path: Path, options: ServeOptions, uploads: Uploads, reporter: Reporter) -> Any:
    """Load the model and return a server of its page that does not run yet."""
    import uvicorn

    from mervn.serving.serving_app import build_app

    recognizer = EmotionRecognizer.from_pretrained(
        path, device=options.device, features_dir=options.features_dir, trust_code=options.trust_code
    )
    if options.transcribe is not None and not recognizer.needs_text:
        raise UsageError(f"--transcribe needs a model that reads text, but {path} reads audio only; leave it out")
    answers = Answers(recognizer, options, uploads, reporter, load_transcriber(options))
    app = build_app(answers, read_facts(recognizer.model), options)
    config = uvicorn.Config(
        app, log_level="critical", log_config=None, access_log=False, timeout_graceful_shutdown=GRACE_S
    )
    return uvicorn.Server(config)


def require_gradio() -> None:
    """Raise UsageError, which names the extra, if gradio is not installed."""
    os.environ.update(NO_STATISTICS)
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise UsageError(f"mervn serve needs gradio ({error}): pip install 'mervn[serve]'") from error


def load_transcriber(options: ServeOptions) -> Transcriber | None:
    """Load the model of --transcribe; None without one."""
    if options.transcribe is None:
        return None
    from mervn.transcription.transcribe import load_recognizer, transcribe  # imports transformers

    recognizer = load_recognizer(options.transcribe, options.language, options.device, option="--transcribe")

    def transcribe_one(samples: Samples) -> str:
        (text,) = transcribe([samples], recognizer)
        return text

    return transcribe_one


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; UsageError if the host or port cannot be used."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UsageError(f"--host must be an address of this machine, found {host!r}: {error.strerror}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen()
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            message = f"--port {port} is used by another program; give another port, or --port 0 for any free one"
        elif error.errno in (errno.EACCES, errno.EPERM):
            message = f"--port {port} needs more rights; give a port from 1024 on"
        else:
            message = f"--host must be an address of this machine, found {host!r}: {error.strerror}"
        raise UsageError(message) from error
    return listener


def is_loopback(listener: socket.socket) -> bool:
    """Tell whether only this machine can reach a socket."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def address(listener: socket.socket) -> str:
    """Return the address of the page on a socket."""
    host, port = listener.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
