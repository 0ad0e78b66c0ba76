"""The page of `mervn serve`: inputs, the answer, and what is known about the model."""

from __future__ import annotations

from typing import Any

import gradio as gr
from fastapi import FastAPI

from mervn.report.page import TEMPLATES, render
from mervn.use.answers import MAX_CHARACTERS, Answers
from mervn.use.model_facts import ModelFacts
from mervn.use.serve_options import ServeOptions
from mervn.use.serving_guard import Guard

KEPT_S = 600
"""Seconds after which audio that nobody asked about is deleted."""
SWEEP_S = 60
"""Seconds between two searches for such audio."""
MB = 1_000_000


def build_app(answers: Answers, facts: ModelFacts, options: ServeOptions) -> Any:
    """Return the ASGI application of the page."""
    page = build_page(answers, facts, options)
    page.queue(max_size=options.concurrency, default_concurrency_limit=1, api_open=False)
    fonts = ["system-ui", "sans-serif"]
    theme = gr.themes.Default(font=fonts, font_mono=["ui-monospace", "monospace"])
    app = gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        page,
        path="/",
        allowed_paths=[],
        show_error=True,
        max_file_size=round(options.max_size_mb * MB),
        ssr_mode=False,
        theme=theme,
        css=(TEMPLATES / "served.css").read_text("utf-8"),
        footer_links=[],
    )
    return Guard(app, options.host)


def build_page(answers: Answers, facts: ModelFacts, options: ServeOptions) -> gr.Blocks:
    """Return the page; it has only the inputs that the model reads."""
    recognizer = answers.recognizer
    with gr.Blocks(title=facts.name, analytics_enabled=False, delete_cache=(SWEEP_S, KEPT_S)) as page:
        limits = f"{options.max_size_mb:g} MB and {options.max_duration_s:g} s of audio, {MAX_CHARACTERS} characters"
        gr.HTML(render("served_header.html", facts=facts, minutes=KEPT_S // 60, limits=limits))
        audio = gr.Audio(
            label="Speech", sources=["microphone", "upload"], type="filepath", visible=recognizer.needs_audio
        )
        text = gr.Textbox(
            label="What is said", lines=2, max_length=MAX_CHARACTERS, visible=recognizer.needs_text
        )
        with gr.Row():
            transcribe = gr.Button("Transcribe", visible=answers.transcriber is not None)
            predict = gr.Button("Predict", variant="primary")
        answer = gr.HTML()
        gr.HTML(render("served_model.html", facts=facts))
        events = {"concurrency_id": "model", "api_visibility": "private"}
        predict.click(lambda *given: (answers.predict(*given), None), [audio, text], [answer, audio], **events)
        transcribe.click(answers.transcribe, [audio], [text, answer], **events)
    return page
