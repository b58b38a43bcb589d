"""The screen: the machine on top, the jobs, and below them the selected one or the machine over time."""

import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Final

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.message import Message
from textual.screen import Screen
from textual.style import Style
from textual.widget import Widget
from textual.widgets import Footer, OptionList, Static
from textual.widgets.option_list import Option

from supervisor.control.client import Client
from supervisor.top import actions, header, panels, table
from supervisor.top.actions import Action, Question
from supervisor.top.dialogs import Confirmation, Consent
from supervisor.top.lines import clean
from supervisor.top.source import LOOK_S, Answer, Away, Look, Looker, News, Watcher, Wish

_TICK_S: Final = 1.0
#: So long what came of an action stands there, in seconds.
_ANSWER_S: Final = 30.0
#: How far back the history goes, in seconds: an hour, all there is, or so little that every sample is seen.
_SPANS: Final = {3600.0: "the last hour", 6 * 3600.0: "the last 6 hours", 600.0: "the last 10 minutes"}
#: From so many lines on there is room for more trouble.
_TALL: Final = 36
#: So many parts the first screen has that are renewed.
_PARTS: Final = 5
#: From so many columns on both panels fit beside each other.
_WIDE: Final = 130


class Panel(Widget):
    """Lines that are made for the room that there is."""

    def __init__(self, lines: Callable[[int, int], list[Text]], **more: Any) -> None:
        super().__init__(**more)
        self._lines = lines

    def render(self) -> Text:
        """The lines."""
        width, height = self.content_size
        return Text("\n", no_wrap=True).join(self._lines(width, height)[:height])


class Jobs(OptionList):
    """The table. It keeps the selected job selected wherever that moves."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "select", "job")]

    def show(self, jobs: list[dict[str, Any]], width: int) -> None:
        """Show these jobs, and touch only what has changed."""
        rows = {str(job["id"]): table.row(job, width) for job in jobs}
        if list(rows) == [option.id for option in self.options]:
            for option in self.options:
                if option.id is not None and rows[option.id] != option.prompt:
                    self.replace_option_prompt(option.id, rows[option.id])
            return
        selected = self.selected
        self.set_options(Option(row, id=number) for number, row in rows.items())
        places = {number: place for place, number in enumerate(rows)}
        if rows:
            self.highlighted = places.get(str(selected), 0)

    def get_visual_style(self, *component_classes: str, partial: bool = False) -> Style:
        """Without colours the cursor is told by its colours the other way round, which textual leaves out."""
        style = super().get_visual_style(*component_classes, partial=partial)
        cursor = self.app.no_color and "option-list--option-highlighted" in component_classes
        return style + Style(reverse=True) if cursor else style

    @property
    def selected(self) -> int | None:
        """The number of the job under the cursor."""
        option = self.highlighted_option
        return int(option.id) if option is not None and option.id is not None else None


class Detail(Screen[None]):
    """One job on the whole screen."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,enter,q", "app.pop_screen", "back")]

    def compose(self) -> ComposeResult:
        """The job, and what can be done to it."""
        yield Panel(lambda width, height: panels.details(self._top.look, width, height), id="whole")
        yield Static(id="answer", markup=False)
        yield Footer()

    @property
    def _top(self) -> "Top":
        assert isinstance(self.app, Top)  # noqa: S101 - there is no other application
        return self.app

    def on_mount(self) -> None:
        """What is known already."""
        self.renew()

    def renew(self) -> None:
        """There is something new."""
        for panel in self.query(Panel):
            panel.border_title = Text(self._top.title_of_job())
            panel.refresh()
        self._top.show_answer(self)


class Main(Screen[None]):
    """The first screen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("m", "machine", "machine"),
        Binding("t", "span", "time"),
        Binding("q", "app.quit", "quit"),
    ]

    def compose(self) -> ComposeResult:
        """All parts."""
        yield Static(id="header", markup=False)
        yield Static(id="columns", markup=False)
        yield Jobs(id="jobs")
        with Horizontal(id="panels"):
            yield Panel(lambda width, height: panels.details(self._top.look, width, height), id="job")
            yield Panel(lambda width, height: panels.machine(self._top.look, width, height, time.time()), id="machine")
        yield Static(id="answer", markup=False)
        yield Footer()

    @property
    def _top(self) -> "Top":
        assert isinstance(self.app, Top)  # noqa: S101 - there is no other application
        return self.app

    def on_mount(self) -> None:
        """What stands there before the first answer."""
        self.query_one(Jobs).focus()
        self.renew()

    def on_resize(self) -> None:
        """Every line is as long as the screen is wide."""
        self.renew()

    def on_option_list_option_highlighted(self) -> None:
        """Another job is looked at."""
        self._top.select(self.query_one(Jobs).selected)

    def on_option_list_option_selected(self) -> None:
        """Enter."""
        self.app.push_screen(Detail())

    def action_machine(self) -> None:
        """Where there is room for one panel, show the other one."""
        self.toggle_class("-machine")

    def action_span(self) -> None:
        """Look further back, or less far."""
        self._top.turn_span()

    def renew(self) -> None:
        """There is something new."""
        # The parts come one after the other, and go so, too.
        if len(self.query("#header, #columns, #jobs, #job, #machine")) < _PARTS:
            return
        top = self._top
        self.renew_header()
        jobs = self.query_one(Jobs)
        if top.look is not None:
            # The scroll bar has its own room.
            width = max(20, self.size.width - 2)
            self.query_one("#columns", Static).update(table.columns(width))
            jobs.show(table.jobs(top.look), width)
        panel, machine = self.query_one("#job", Panel), self.query_one("#machine", Panel)
        panel.border_title = Text(top.title_of_job())
        machine.border_title = f"machine, {_SPANS[top.wish.span_s]}"
        for each in (panel, machine):
            each.refresh()
        top.show_answer(self)

    def renew_header(self) -> None:
        """A second has gone by."""
        troubles = 8 if self.size.height >= _TALL else 3
        lines = header.header(self._top.look, self._top.away, time.time(), self.size.width, troubles)
        for line in self.query("#header").results(Static):
            line.update(Text("\n").join(lines))


class Told(Message):
    """What the watcher tells."""

    def __init__(self, news: News) -> None:
        super().__init__()
        self.news = news


class Top(App[None]):
    """``azaionctl top``.

    Args:
        client: of the daemon.
        interval_s: seconds between two looks.
    """

    TITLE = "azaionctl top"
    ENABLE_COMMAND_PALETTE = False
    # textual declares these two as variables of instances.
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (_WIDE, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-short"), (_TALL, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "ask('cancel')", "cancel"),
        Binding("s", "ask('stop')", "stop"),
        Binding("h", "hold_or_release", "hold"),
        Binding("r", "ask('retry')", "retry"),
        Binding("p", "ask('priority')", "prio"),
        Binding("ctrl+c", "quit", show=False, priority=True),
    ]
    CSS = """
    #header { height: auto; text-wrap: nowrap; text-overflow: ellipsis; }
    #columns { height: 1; text-style: bold underline; }
    #jobs { height: 1fr; border: none; padding: 0; background: $background; scrollbar-size-vertical: 1; }
    #jobs > .option-list--option { padding: 0; }
    #panels { height: 9; }
    Panel { border-top: solid $primary; border-title-style: bold; width: 1fr; height: 1fr; }
    #machine { display: none; }
    #answer { height: auto; max-height: 3; display: none; text-style: bold; }
    #answer.-failed { color: $text-error; text-style: bold reverse; }
    #answer.-there { display: block; }
    .-tall #panels { height: 45%; }
    .-wide #machine { display: block; margin-left: 1; }
    .-narrow.-machine #machine { display: block; }
    .-narrow.-machine #job { display: none; }
    Confirmation { align: center middle; }
    #dialog { width: 66; max-width: 95%; height: auto; border: thick $error; padding: 0 1; background: $surface; }
    #title { text-style: bold; margin-bottom: 1; }
    #text { margin-bottom: 1; }
    #buttons { height: auto; align-horizontal: right; }
    #buttons Button { margin-left: 2; }
    #buttons Button:focus { text-style: bold reverse; }
    """

    def __init__(self, client: Client, interval_s: float = LOOK_S) -> None:
        # The terminal's own colours are the only ones that can be left out altogether.
        plain = "NO_COLOR" in os.environ
        super().__init__(ansi_color=plain or None)
        if plain:
            self.theme = "ansi-dark"
        # Over ssh every frame costs.
        self.animation_level = "none"
        self.look: Look | None = None
        self.away: Away | None = None
        self.wish = Wish()
        self._answer: Answer | None = None
        self._answered = 0.0
        self._watcher = Watcher(Looker(client), self._tell, interval_s)

    def get_default_screen(self) -> Screen[None]:
        """The first screen."""
        return Main()

    def on_mount(self) -> None:
        """Begin to look."""
        self._watcher.start()
        self.set_interval(_TICK_S, self._tick)

    def on_unmount(self) -> None:
        """Somebody has seen enough."""
        self._watcher.close()

    def _tell(self, news: News) -> None:
        self.post_message(Told(news))

    def on_told(self, message: Told) -> None:
        """The watcher has something to tell."""
        match message.news:
            case Look() as look:
                self.look, self.away = look, None
            case Away() as away:
                self.away = away
            case Answer() as answer:
                self._say(answer)
        self._renew()

    def _tick(self) -> None:
        if self._answer is not None and time.monotonic() - self._answered > _ANSWER_S:
            self._say(None)
        main = self.screen_stack[0]
        if isinstance(main, Main):
            main.renew_header()

    def _say(self, answer: Answer | None) -> None:
        self._answer, self._answered = answer, time.monotonic()
        for screen in self.screen_stack:
            if isinstance(screen, Main | Detail):
                self.show_answer(screen)

    def _renew(self) -> None:
        for screen in self.screen_stack:
            if isinstance(screen, Main | Detail):
                screen.renew()

    # What is looked at.

    def select(self, job: int | None) -> None:
        """Look at another job."""
        self._wish(Wish(job=job, span_s=self.wish.span_s))

    def turn_span(self) -> None:
        """Look further back, or less far."""
        spans = list(_SPANS)
        self._wish(Wish(job=self.wish.job, span_s=spans[(spans.index(self.wish.span_s) + 1) % len(spans)]))

    def _wish(self, wish: Wish) -> None:
        self.wish = wish
        self._watcher.wish(wish)

    def title_of_job(self) -> str:
        """What the job's panel is called."""
        return panels.title(self.look.job if self.look is not None else None)

    # What is done.

    def action_hold_or_release(self) -> None:
        """Hold it, or release it."""
        if (job := self._job()) is not None:
            self._ask(actions.toggled(job), job)

    def action_ask(self, action: str) -> None:
        """Ask whether to do something to the selected job."""
        if (job := self._job()) is not None:
            self._ask(Action(action), job)

    def _job(self) -> Mapping[str, Any] | None:
        """The job under the cursor, as the table shows it."""
        known = table.jobs(self.look) if self.look is not None else []
        selected = [jobs.selected for jobs in self.screen_stack[0].query(Jobs)]
        return next((job for job in known if job["id"] in selected), None)

    def _ask(self, action: Action, job: Mapping[str, Any]) -> None:
        asked = actions.question(action, job)
        if isinstance(asked, Question):
            self._say(None)
            self.push_screen(Confirmation(asked), partial(self._decided, asked))
        else:
            self._say(Answer(text=asked, done=False))

    def _decided(self, asked: Question, consent: Consent | None) -> None:
        if consent is None:
            self._say(Answer(text=f"job {asked.job} is left alone", done=True))
        else:
            self._say(Answer(text=f"{asked.action} job {asked.job} ...", done=True))
            self._watcher.do(asked, consent.number)

    def show_answer(self, screen: Screen[None]) -> None:
        """What came of the last action."""
        for line in screen.query("#answer").results(Static):
            line.set_class(self._answer is not None, "-there")
            if self._answer is not None:
                line.set_class(not self._answer.done, "-failed")
                line.update(clean(self._answer.text))
