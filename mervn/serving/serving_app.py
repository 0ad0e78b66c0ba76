"""The page of `mervn serve`: inputs, the answer, and what is known about the model."""

from __future__ import annotations

import asyncio
from typing import Any

import gradio as gr
from fastapi import FastAPI

from mervn.report.page import TEMPLATES, render
from mervn.serving.answers import MAX_CHARACTERS, Answers
from mervn.serving.serve_options import ServeOptions
from mervn.serving.serving_guard import Guard
from mervn.serving.uploads import KEPT_S
from mervn.use.model_facts import ModelFacts

MB = 2**20
"""Bytes, as gradio counts them in its messages."""
BLUE, DARK_BLUE = "#1f5fbf", "#184c99"
"""Colours of a button; white text on them has a contrast of more than 4.5."""


def build_app(answers: Answers, facts: ModelFacts, options: ServeOptions) -> Guard:
    """Return the ASGI application of the page. No event loop may run in this thread."""

    async def build() -> Guard:
        return mount(answers, facts, options)

    return asyncio.run(build())  # where no loop runs, gradio opens some that nobody closes


def mount(answers: Answers, facts: ModelFacts, options: ServeOptions) -> Guard:
    """Return the page, mounted behind the guard."""
    page = build_page(answers, facts, options)
    page.queue(max_size=options.concurrency - 1, default_concurrency_limit=1, api_open=False)
    page.has_launched = True  # else gradio does not check that files are uploads
    max_upload = round(options.max_size_mb * MB)
    app = gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        page,
        path="/",
        allowed_paths=[],
        show_error=True,
        max_file_size=max_upload,
        mcp_server=False,
        run_history=False,
        ssr_mode=False,
        theme=build_theme(),
        css=(TEMPLATES / "served.css").read_text("utf-8"),
        footer_links=[],
    )
    inputs = {}
    for number, event in page.fns.items():
        inputs[number] = [isinstance(component, gr.Audio) for component in event.inputs]
    return Guard(app, answers.uploads, inputs, max_upload)


def build_theme() -> Any:
    """Return the colours of the reports, and fonts of the visitor's machine: none is loaded."""
    theme = gr.themes.Default(
        primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    return theme.set(
        button_primary_background_fill=BLUE,
        button_primary_background_fill_dark=BLUE,
        button_primary_background_fill_hover=DARK_BLUE,
        button_primary_background_fill_hover_dark=DARK_BLUE,
    )


def build_page(answers: Answers, facts: ModelFacts, options: ServeOptions) -> Any:
    """Return the page; it has only the inputs that the model reads."""
    recognizer, has_transcriber = answers.recognizer, answers.transcriber is not None
    with gr.Blocks(title=facts.name, analytics_enabled=False) as page:
        limits = f"{options.max_size_mb:g} MB and {options.max_duration_s:g} s of audio, {MAX_CHARACTERS} characters"
        gr.HTML(render("served_header.html", facts=facts, minutes=round(KEPT_S / 60), limits=limits))
        audio = gr.Audio(
            label="Speech",
            sources=["upload", "microphone"],
            type="filepath",
            buttons=[],  # none for sharing
            visible=recognizer.needs_audio or has_transcriber,
        )
        transcribe = gr.Button("Transcribe", visible=has_transcriber)
        text = gr.Textbox(label="What is said", lines=2, max_length=MAX_CHARACTERS, visible=recognizer.needs_text)
        predict = gr.Button("Predict", variant="primary")
        answer = gr.HTML()
        gr.HTML(render("served_model.html", facts=facts))
        events: dict[str, Any] = {"concurrency_id": "model", "api_visibility": "private", "show_progress_on": answer}
        predict.click(lambda *given: (answers.predict(*given), None), [audio, text], [answer, audio], **events)
        transcribe.click(answers.transcribe, [audio, text], [text, answer], **events)
    return page
