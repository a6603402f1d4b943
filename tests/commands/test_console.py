"""What a person sees is the text as it is, whatever a library would make of brackets, colons and percent signs."""

import pytest

from seq2seq_jax.benchmark import report
from seq2seq_jax.commands.console import Display, columns, plain, table

TEXTS = ["runs/[lr=3]/a", "[/old]", "[bold]x[/bold]", ":cat: :smile:", "100% %s %(x)s", "{0} {name}", "$x_1$ \\[ ~"]


@pytest.mark.parametrize("text", TEXTS)
def test_every_way_to_the_terminal_shows_text_as_it_is(capsys, text):
    table([(text, text)], title=text)
    shown = capsys.readouterr().out
    assert shown.count(text) == 3
    columns(["", text], [[text, text]], title=text)
    assert capsys.readouterr().out.count(text) == 4
    report.output().print(report.table(["", text], [[text, text]], title=text))
    report.output().print(text)
    assert capsys.readouterr().out.count(text) == 5
    with Display() as display:
        display.line(text)
        display.progress(text, 1, 1, text)
    assert capsys.readouterr().err.splitlines() == [text, f"{text}: 1 of 1 {text}"]


@pytest.mark.parametrize("text", TEXTS)
def test_a_progress_bar_shows_text_as_it_is(text):
    display = Display()
    display.console = plain(width=200, force_terminal=True, color_system=None)
    display._bars.live.console = display.console
    display._bars.add_task(text, total=2, figures=text)
    with display.console.capture() as capture:
        display.console.print(display._bars.get_renderable())
    assert capture.get().count(text) == 2
